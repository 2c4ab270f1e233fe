"""A report in GitHub Flavored Markdown. Its figures are separate files."""

import re
from collections.abc import Sequence

from service.report.document import Block, Bullets, DataTable, Document, Figure, Listing, Paragraph

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$!&])")


def as_markdown(document: Document) -> str:
    """Render the document as Markdown, which refers to figures by their names."""
    parts = [f"# {_text(document.title)}"]
    for section in document.sections:
        parts.append(f"## {_text(section.title)}")
        parts += [_block(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    match block:
        case Paragraph(text):
            return _text(text)
        case Bullets(items):
            return "\n".join(f"- {_text(item)}" for item in items)
        case DataTable(header, rows, labels):
            ruler = ["---" if index < labels else "---:" for index in range(len(header))]
            return "\n".join([_row(map(_text, header)), _row(ruler), *(_row(map(_text, row)) for row in rows)])
        case Figure(name, _, description):
            return f"![{_text(description)}]({name})"
        case Listing(text):
            fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
            return f"{fence}\n{text}\n{fence}"


def _row(cells: "Sequence[str] | map[str]") -> str:
    return f"| {' | '.join(cells)} |"


def _text(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
