"""The elements of a report, independent of its format. All text is plain; the renderers escape it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Paragraph:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class DataTable:
    """A table. The first `labels` columns contain text, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int = 1


@dataclass(frozen=True)
class Figure:
    """A figure as SVG, with its caption."""

    name: str
    svg: str
    description: str


@dataclass(frozen=True)
class Listing:
    """Preformatted text, such as JSON."""

    text: str


Block = Paragraph | Bullets | DataTable | Figure | Listing


@dataclass(frozen=True)
class Section:
    """A heading and its content."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A report."""

    title: str
    sections: Sequence[Section]
