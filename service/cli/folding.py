"""Tables and progress bars that fold on a narrow terminal: every value is printed whole at any width."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.segment import Segment
from rich.table import Column
from rich.text import Text

GAP = 2
"""Spaces between two columns or two values of a block, and the indentation within a block."""
MIN_BAR, MAX_BAR = 8, 40
"""Limits of the width of a progress bar, in characters."""


class Grid:
    """A table without borders, one line per row.

    On a terminal that is too narrow for it, columns with the same value in all rows are moved to a note below the
    table. If the rest is still too wide, each row becomes a block of `COLUMN: value`.
    """

    def __init__(self, *columns: str, right: Iterable[str] = ()) -> None:
        self._columns = columns
        self._right = frozenset(right)
        self._rows: list[list[Text]] = []

    def add_row(self, *cells: str | Text) -> None:
        """Add a row with one cell per column."""
        assert len(cells) == len(self._columns)
        self._rows.append([_on_one_line(cell) for cell in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = list(range(len(self._columns)))
        # A pipe has no width: programs read one row per line.
        room = options.max_width if console.is_terminal else self._width(shown)
        common = self._common(shown, room)
        shown = [place for place in shown if place not in common]
        if self._width(shown) > room:
            for row in self._rows:
                yield from flow(self._named(row, shown), console, options.max_width)
        else:
            yield from self._lines(shown)
        if common:
            yield from flow([Text("In every row:"), *self._named(self._rows[0], common)], console, options.max_width)

    def _common(self, shown: Sequence[int], room: int) -> list[int]:
        """Return the columns to move to the note: the widest ones with the same value in all rows, until all fit."""
        if len(self._rows) < 2:
            return []
        common = [place for place in shown[1:] if len({row[place].plain for row in self._rows}) == 1]
        common.sort(key=lambda place: -self._width([place]))
        moved: list[int] = []
        while common and self._width([place for place in shown if place not in moved]) > room:
            moved.append(common.pop(0))
        return sorted(moved)

    def _widths(self, shown: Sequence[int]) -> list[int]:
        cells = ([_on_one_line(column) for column in self._columns], *self._rows)
        return [max(row[place].cell_len for row in cells) for place in shown]

    def _width(self, shown: Sequence[int]) -> int:
        return sum(self._widths(shown)) + GAP * (len(shown) - 1)

    def _lines(self, shown: Sequence[int]) -> Iterator[Text]:
        widths = self._widths(shown)
        for cells in ([Text(column, "bold") for column in self._columns], *self._rows):
            line = Text(no_wrap=True, overflow="ignore")
            for place, width in zip(shown, widths, strict=True):
                padding = " " * (width - cells[place].cell_len)
                right = self._columns[place] in self._right
                line.append(padding if right else "").append_text(cells[place])
                line.append("" if right else padding).append(" " * GAP)
            line.rstrip()
            yield line

    def _named(self, row: Sequence[Text], shown: Iterable[int]) -> Iterator[Text]:
        for place in shown:
            if row[place]:
                name = f"{self._columns[place]}: " if self._columns[place] else ""
                yield Text.assemble((name, "dim"), row[place])


class Facts:
    """A table of names and values without a header. The last cell of a row is the value, which wraps.

    On a terminal that is too narrow for the longest word of the values beside the names, values are below their names.
    """

    def __init__(self) -> None:
        self._rows: list[list[Text]] = []

    def add_row(self, *cells: str | Text) -> None:
        """Add a row: a name, the value, and what is shown between them."""
        name, *others = cells
        self._rows.append([Text(name, "bold") if isinstance(name, str) else name, *map(_text, others)])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        names = [row[:-1] for row in self._rows]
        widths = [max(cell.cell_len for cell in column) + GAP for column in zip(*names, strict=True)]
        longest = max((cell_len(word) for row in self._rows for word in row[-1].plain.split()), default=0)
        beside = sum(widths) + longest <= options.max_width
        for *cells, value in self._rows:
            line = Text()
            for cell, width in zip(cells, widths, strict=True):
                line.append_text(cell).append(" " * ((width if beside else GAP + cell.cell_len) - cell.cell_len))
            if not beside and line.cell_len + value.cell_len > options.max_width:
                line.rstrip()
                yield from line.wrap(console, options.max_width, overflow="fold")
                line = Text(" " * GAP)
            indentation = " " * line.cell_len
            for part in value.wrap(console, options.max_width - line.cell_len, overflow="fold"):
                yield line.append_text(part)
                line = Text(indentation)


def flow(values: Iterable[Text], console: Console, width: int) -> Iterator[Text]:
    """Arrange values on lines of at most `width` cells: whole ones where they fit, all lines but the first indented."""
    line: Text | None = None
    for value in values:
        if line is not None and line.cell_len + GAP + value.cell_len <= width:
            line.append(" " * GAP).append_text(value)
            continue
        if line is not None:
            yield line
        indentation = 0 if line is None else GAP
        *whole, last = value.wrap(console, width - GAP, overflow="fold") or [Text()]
        for part in whole:
            yield Text(" " * indentation).append_text(part)
            indentation = GAP
        line = Text(" " * indentation).append_text(last)
    if line is not None:
        yield line


class Screenful:
    """Something cut to the height of the terminal, with a note of how much is missing, for a live display."""

    def __init__(self, content: RenderableType, where: str) -> None:
        self._content = content
        self._where = where

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._content, options.update(height=None), pad=False)
        room = console.height - 1
        cut = len(lines) > room
        note = list(flow([Text(f"More lines than the terminal has; {self._where}", "dim")], console, options.max_width))
        for line in lines[: max(1, room - len(note))] if cut else lines:
            yield from line
            yield Segment.line()
        yield from note if cut else ()


class FoldingProgress(Progress):
    """Progress bars of which each takes one line, or several on a terminal that is too narrow for one.

    If not all fit into the height of the terminal, those that are under way are shown, and the others counted.
    """

    def __init__(self, *columns: ProgressColumn, count: Callable[[Sequence[Task]], str], **options: Any) -> None:
        self._columns = columns
        self._count = count
        super().__init__(*columns, expand=True, **options)

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return what is drawn: the width is known only then."""
        return [_Frame(self)]

    def frame(self, console: Console, width: int) -> Iterator[RenderableType]:
        """Return the bars, and the count of those that do not fit."""
        tasks, room = self.tasks, console.height - 1
        folded = self._natural_width(tasks) > width
        blocks = {task.id: list(flow(self._values(task), console, width)) for task in tasks} if folded else {}
        heights = {task.id: len(blocks[task.id]) + 1 if folded else 1 for task in tasks}
        rest: list[Task] = []
        if self.live.is_started and sum(heights.values()) > room:
            room -= len(list(flow([Text(self._count(tasks))], console, width)))
            for task in sorted(tasks, key=lambda task: not 0 < task.completed < (task.total or 1)):
                room -= heights[task.id]
                if room < 0:
                    rest.append(task)
        shown = [task for task in tasks if task not in rest]
        if not folded:
            yield self.make_tasks_table(shown)
        for task in shown if folded else ():
            yield from blocks[task.id]
            yield Padding(self._bar(task), (0, max(GAP, width - GAP - MAX_BAR), 0, GAP))
        if rest:
            yield from flow([Text(self._count(rest))], console, width)

    def _values(self, task: Task) -> list[Text]:
        values = [column(task) for column in self._columns]
        return [value for value in values if isinstance(value, Text) and value]

    def _bar(self, task: Task) -> RenderableType:
        return next(column(task) for column in self._columns if isinstance(column, BarColumn))

    def _natural_width(self, tasks: Iterable[Task]) -> int:
        """Return the width at which each bar has one line."""
        natural = len(self._columns) - 1
        for column in self._columns:
            values = [column(task) for task in tasks]
            natural += max((value.cell_len if isinstance(value, Text) else MIN_BAR for value in values), default=0)
        return natural


class _Frame:
    def __init__(self, progress: FoldingProgress) -> None:
        self._progress = progress

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self._progress.frame(console, options.max_width)


def bar() -> BarColumn:
    """Return the column of the bar itself."""
    column = Column(min_width=MIN_BAR, max_width=MAX_BAR, ratio=1)
    return BarColumn(bar_width=None, complete_style="blue", finished_style="green", table_column=column)


class Value(ProgressColumn):
    """A column with a text of each task, which is never cut."""

    def __init__(self, text: Callable[[Task], str | Text]) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self._text = text

    def render(self, task: Task) -> Text:
        """Return the text of a task."""
        return _on_one_line(self._text(task))


def _text(cell: str | Text) -> Text:
    return Text(cell) if isinstance(cell, str) else cell


def _on_one_line(cell: str | Text) -> Text:
    text = _text(cell)
    return Text("␊").join(text.split("\n")) if "\n" in text.plain else text
