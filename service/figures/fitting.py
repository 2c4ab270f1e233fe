"""Text that fits: broken into lines by the widths of the letters of the font, and never cut off."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

MISSING = "\N{REPLACEMENT CHARACTER}"
"""What is drawn for a character that the font does not have."""
_POINT_IN = 1 / 72
LINE = 1.25
"""Height of a line, as a multiple of the size of the font."""


def fitted(text: str, width: float, size: float) -> str:
    """Break text into lines that are at most `width` inches wide, at spaces if there are any.

    Args:
        text: The text. Characters that the font does not have are replaced, line breaks are spaces.
        width: Width in inches.
        size: Size of the font in points.
    """
    lines: list[str] = []
    for word in _drawable(text).split():
        if lines and _width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and _width(lines[-1] + letter, size) > width:
                lines.append("")
            lines[-1] += letter
    return "\n".join(lines)


def turned(labels: Sequence[str], slot: float, size: float) -> tuple[list[str], int]:
    """Return the labels of categories that are `slot` inches wide, and the angle at which they fit: 0 or 90 degrees."""
    room = 0.92 * slot
    words = [word for label in labels for word in _drawable(label).split()]
    if all(_width(word, size) <= room for word in words):
        level = [fitted(label, room, size) for label in labels]
        if max((label.count("\n") for label in level), default=0) < 3:
            return level, 0
    lines = max(1, min(3, int(slot / (LINE * size * _POINT_IN))))
    longest = max(_width(_drawable(label), size) for label in labels)
    upright = [fitted(label, max(0.9, 1.15 * longest / lines), size) for label in labels]
    return upright, 90


def _drawable(text: str) -> str:
    known = _font()[1]
    return "".join(letter if letter.isspace() or ord(letter) in known else MISSING for letter in text)


def _width(text: str, size: float) -> float:
    """Return the width of a line in inches."""
    return sum(_advance(letter) for letter in text) * size * _POINT_IN


@lru_cache(maxsize=4096)
def _advance(letter: str) -> float:
    """Return the width of a letter, as a multiple of the size of the font."""
    font, _ = _font()
    font.set_size(100, 72)
    font.set_text(letter)
    return float(math.ceil(font.load_char(ord(letter)).linearHoriAdvance / 65536)) / 100


@lru_cache(maxsize=1)
def _font() -> tuple[Any, frozenset[int]]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties(family="DejaVu Sans")))
    return font, frozenset(font.get_charmap())
