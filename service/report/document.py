"""What a report consists of, before it is Markdown or HTML. All text is plain: whoever renders it escapes it."""

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
    """A table; the first `labels` columns are text, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int = 1


@dataclass(frozen=True)
class Figure:
    """A picture as SVG, and in words what it shows."""

    name: str
    svg: str
    description: str


@dataclass(frozen=True)
class Listing:
    """Text as it is: JSON, say."""

    text: str


Block = Paragraph | Bullets | DataTable | Figure | Listing


@dataclass(frozen=True)
class Section:
    """A heading and what is under it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A report."""

    title: str
    sections: Sequence[Section]

    @property
    def figures(self) -> Sequence[Figure]:
        """The pictures in it."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Figure)]
