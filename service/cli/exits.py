"""Exit codes, and the errors that lead to them."""

import errno
from enum import IntEnum

import typer

from service.client.errors import ApiError, ClientError, ConnectionFailed, NotNormlab
from service.client.requests import InvalidRequest


class Exit(IntEnum):
    """The exit codes."""

    OK = 0
    FAILED = 1
    INVALID = 2
    UNREACHABLE = 3
    REFUSED = 4
    INTERRUPTED = 130
    PIPE = 141


EXIT_CODES = {
    Exit.OK: "success",
    Exit.FAILED: "the job failed or was cancelled, or the operation failed on this machine",
    Exit.INVALID: "the command or the job is not valid",
    Exit.UNREACHABLE: "the service cannot be reached",
    Exit.REFUSED: "the service refused the request: not found, not possible in this state, or not permitted",
    Exit.INTERRUPTED: "interrupted by Ctrl-C",
    Exit.PIPE: "the reader of the output ended first, as `head` does",
}


_WRONG_PATHS = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)
"""The errors of a path that does not exist, is of another kind, or may not be used."""


class Failed(Exception):
    """The operation failed; the message is the reason."""


class NotFound(Exception):
    """The service has nothing of this id; the message lists what is accepted."""


class Invalid(Exception):
    """The command is invalid; the message lists what is accepted."""


def exit_code_of(error: Exception) -> Exit | None:
    """Return the exit code of an error that a user can cause, or None for any other error."""
    match error:
        case Invalid() | InvalidRequest() | typer.TyperException():
            return Exit.INVALID
        case OSError() if error.filename is not None and error.errno in _WRONG_PATHS:
            return Exit.INVALID
        case ConnectionFailed() | NotNormlab():
            return Exit.UNREACHABLE
        case NotFound():
            return Exit.REFUSED
        case ApiError():
            return Exit.INVALID if error.status in (400, 422) else Exit.REFUSED
        case Failed() | ClientError() | OSError():
            return Exit.FAILED
    return None
