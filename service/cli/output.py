"""The output of the commands, and what happens when it cannot be written.

Names, labels and log lines are printed as they are: they are never markup. If output cannot be written, a command that
only prints ends; a command that has changed something, or that serves, does not fail because of it.
"""

import contextlib
import errno
import io
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from service.client.files import naming, write_file

Json = dict[str, Any]

STANDARD_OUTPUT = "standard output"
WIDTH_OF_A_PIPE = 200
_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"}
_PICTURES |= dict.fromkeys(range(0x7F, 0xA0), ord("�"))
"""Characters that would control the terminal, and what is printed instead."""


class Output(Console):
    """A console that prints text as it is: without markup, codes of emoji, or highlighting."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as `rich.console.Console` does, but never cut a line. An `OSError` names the stream."""
        with naming("standard error" if self.stderr else STANDARD_OUTPUT):
            super().print(*objects, **{"crop": False} | options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Render as `rich.console.Console` does, with a picture of each control character, as `␛` for Escape."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(segment.text.translate(_PICTURES), segment.style)

    def on_broken_pipe(self) -> None:
        """Raise the error, where rich exits."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def console(*, stderr: bool = False) -> Output:
    """Make a console as wide as the terminal; in a pipe, wide enough for any table."""
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Output(stderr=stderr, width=None if is_terminal else WIDTH_OF_A_PIPE)


def plain_text(renderable: RenderableType) -> str:
    """Return what is printed in a pipe, to be written to a file."""
    plain = Output(width=WIDTH_OF_A_PIPE, force_terminal=False, color_system=None)
    with plain.capture() as captured:
        plain.print(renderable)
    return captured.get()


def write_content(content: bytes, output: Path | None) -> None:
    """Write to a file, or print on standard output."""
    if output is not None:
        write_file(output, content)
    else:
        print_bytes(content)


def is_standard_output(path: Path) -> bool:
    """Whether a path, such as /dev/stdout, leads to what standard output is."""
    try:
        return os.path.samestat(path.stat(), os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError):
        return False


def print_json(document: Any) -> None:
    """Print a JSON document on standard output."""
    with naming(STANDARD_OUTPUT):
        print(_json_text(document, indent=2))


def print_json_line(document: Any) -> None:
    """Print a JSON document on one line and flush it."""
    with naming(STANDARD_OUTPUT):
        print(_json_text(document), flush=True)


def print_bytes(content: bytes) -> None:
    """Write a file to standard output."""
    with naming(STANDARD_OUTPUT):
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


def announce(document: Json | None, *lines: str | Text, as_json: bool = False, stderr: bool = False) -> None:
    """Print what a command has done: lines, or a document as JSON.

    Output that cannot be written is reported on standard error, and the command goes on: what it has done is done, and
    its exit code must not suggest to repeat it.
    """
    try:
        if as_json:
            print_json(document)
        else:
            out = console(stderr=stderr)
            for line in lines:
                out.print(line, soft_wrap=True)
        sys.stdout.flush()
    except OSError as error:
        for stream in (sys.stdout, sys.stderr):
            discard_pending(stream)
        if not isinstance(error, BrokenPipeError):
            complain(f"{error.filename or STANDARD_OUTPUT}: {error.strerror}")


def command_name() -> str:
    """Return how the user can run this command again: `normlab` where PATH has it, else its path."""
    called = Path(sys.argv[0]).absolute()
    found = shutil.which("normlab")
    if called.name != "normlab" or (found and called.samefile(found)):
        return "normlab"
    return shlex.quote(os.path.relpath(called) if called.is_relative_to(Path.cwd()) else str(called))


def say(line: str) -> None:
    """Print the progress of something that goes on, whether or not its output can be written."""
    announce(None, line)


def complain(text: str) -> None:
    """Print a message of the command on standard error, or nowhere if that cannot be written."""
    try:
        print(f"normlab: {text}", file=sys.stderr, flush=True)
    except OSError:
        discard_pending(sys.stderr)


def prepare_streams() -> None:
    """Open the standard streams that are closed as the null device, and print a character that a stream lacks as `?`.

    Without it, the next file that is opened would get the number of a closed stream, and its content all that is
    printed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # The lowest number that is free: that of the stream.
            null = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(null, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def discard_pending(stream: TextIO) -> None:
    """Discard what a stream could not write, which it would otherwise try again at the next print and at exit."""
    with contextlib.suppress(OSError, ValueError), _null_device_at(stream.fileno()):
        stream.flush()


@contextlib.contextmanager
def _null_device_at(number: int) -> Iterator[None]:
    kept, null = os.dup(number), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, number)
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)
        os.close(null)


def _json_text(document: Any, indent: int | None = None) -> str:
    """Encode as JSON, with escapes if standard output cannot hold the characters."""
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(document, indent=indent)
    return text
