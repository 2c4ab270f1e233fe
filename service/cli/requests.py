"""Requests in files and on standard input: JSON or YAML, in UTF-8, or in UTF-16 or UTF-32 with a byte order mark."""

import codecs
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from service.cli.exits import Invalid
from service.client.files import naming

Json = dict[str, Any]

# UTF-32 before UTF-16, whose mark is the beginning of its own.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_JSON_TAGS = ("null", "bool", "int", "float", "str", "seq", "map")
_UNREADABLE = (yaml.YAMLError, ValueError, LookupError, RecursionError)
"""What PyYAML and json raise for texts that they cannot read: LookupError for `!!bool maybe`, for example."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads the values that JSON has. A date is the text that it is written as."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.yaml_constructors = {
    tag: constructor
    for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.removeprefix("tag:yaml.org,2002:") in _JSON_TAGS
}


def read_json(source: str, example: str) -> Json:
    """Read an object from a JSON file, or from standard input if `source` is a dash. Raises `Invalid`."""
    return _read(source, json.loads, "JSON", example)


def read_yaml(source: str, example: str) -> Json:
    """Read an object from a YAML or JSON file, or from standard input if `source` is a dash. Raises `Invalid`."""
    return _read(source, lambda text: yaml.load(text, _Loader), "YAML or JSON", example)


def _read(source: str, parse: Callable[[str], Any], language: str, example: str) -> Json:
    name = "standard input" if source == "-" else source
    with naming(name):
        content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    text = _decoded(content, name)
    try:
        found = parse(text)
    except _UNREADABLE as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise Invalid(f"{name} is not {language}: {reason}") from error
    if not isinstance(found, dict):
        raise Invalid(f"{name} does not contain an object: give {example}")
    return found


def _decoded(content: bytes, name: str) -> str:
    mark, encoding = next((found for found in _MARKS if content.startswith(found[0])), (b"", "utf-8"))
    try:
        return content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Invalid(
            f"{name} is not text in {encoding.upper()} (line {line}: {error.reason}): save it as UTF-8"
        ) from error
