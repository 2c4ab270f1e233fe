"""Parsing of the project's documents, for the tests that compare them with the code."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("gn", "worker", "service", "docker", "tests")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_NOT_OF_A_SLUG = re.compile(r"[^\w\- ]")


def read(name: str) -> str:
    """Return the text of a document, given its path relative to the root."""
    return (ROOT / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """Return the text of a section with a heading of the second level."""
    _, found, rest = f"\n{text}".partition(f"\n## {heading}\n")
    assert found, f"there is no section {heading!r}"
    return rest.partition("\n## ")[0]


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language; an empty `language` selects blocks without one."""
    return [body for name, body in _FENCE.findall(text) if name == language]


def prose(text: str) -> str:
    """Return the text without its fenced blocks."""
    return _FENCE.sub("", text)


def inline(text: str) -> list[str]:
    """Return the inline code outside of fenced blocks."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def commands(text: str) -> list[str]:
    """Return the commands of the console blocks, without comments and with continued lines joined."""
    lines = "".join(blocks(text, "console")).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s{2,}#.*", "", line[2:]).strip() for line in lines if line.startswith("$ ")]


def normlab_arguments(text: str) -> Iterator[list[str]]:
    """Yield the arguments of each `normlab` command in a console block or in inline code."""
    for command in [*commands(text), *inline(text)]:
        if re.match(r"(\w+=\S+ )*normlab ", command):
            words = shlex.split(command.partition(" | ")[0])
            yield words[words.index("normlab") + 1 :]


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings, as GitHub generates them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading.strip())
        slug = base = _NOT_OF_A_SLUG.sub("", plain.lower()).replace(" ", "-")
        number = 0
        while slug in found:
            number += 1
            slug = f"{base}-{number}"
        found.add(slug)
    return found


def links(text: str) -> list[str]:
    """Return the targets of links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(text))


def layout(text: str) -> dict[str, str]:
    """Return the files and folders in a document's directory listing, with their descriptions."""
    for block in blocks(text, ""):
        lines = re.findall(r"^([\w.-]+(?:/|\.\w+)) {2,}(.+)$", block, re.MULTILINE)
        if len(lines) > 2:
            return dict(lines)
    return {}
