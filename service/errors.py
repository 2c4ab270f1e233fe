"""Errors of a caller, each of which the API answers as a problem document (RFC 9457)."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple


class ServiceError(Exception):
    """The base of all errors. The message is a sentence for the person who sent the request."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong"
    retry_after_s: ClassVar[int | None] = None
    """Seconds after which a repeat may succeed; None: unknown."""


class NotFound(ServiceError):
    """The resource does not exist."""

    status = 404
    title = "Not found"

    def __init__(self, noun: str, id_: str) -> None:
        super().__init__(f"There is no {noun} {id_}.")


class Gone(ServiceError):
    """The resource was removed by a rule of the service."""

    status = 410
    title = "Removed"


class Conflict(ServiceError):
    """The state of the resource does not permit the request."""

    status = 409
    title = "Not possible in this state"


class QuotaExceeded(ServiceError):
    """The request adds more jobs than the limit of this name permits."""

    status = 429
    title = "Quota exceeded"


class PreconditionFailed(ServiceError):
    """The resource has changed since the client has read it."""

    status = 412
    title = "Changed meanwhile"


class Unprocessable(ServiceError):
    """The request is well formed and not valid."""

    status = 422
    title = "Invalid request"


class FieldError(NamedTuple):
    """One invalid field of a request, and the reason."""

    path: tuple[str | int, ...]
    detail: str


class InvalidFields(Unprocessable):
    """Fields of which each is valid, but not their combination."""

    def __init__(self, fields: Sequence[FieldError], *, is_complete: bool = True) -> None:
        self.fields, self.is_complete = list(fields), is_complete
        several = f"{'' if is_complete else 'At least '}{len(self.fields)} fields are not valid."
        super().__init__(self.fields[0].detail if len(self.fields) == 1 else several)


class Unauthorized(ServiceError):
    """The request has no token, or an unknown one."""

    status = 401
    title = "Not authorized"


class Forbidden(ServiceError):
    """The token does not permit the request."""

    status = 403
    title = "Not allowed"


class NotAcceptable(ServiceError):
    """The service can produce none of the media types that the client accepts."""

    status = 406
    title = "Not acceptable"


class RangeNotSatisfiable(ServiceError):
    """The file has none of the requested bytes."""

    status = 416
    title = "Range not satisfiable"


class CorruptFile(ServiceError):
    """A stored file is missing, or differs from what was stored."""

    status = 500
    title = "Corrupt file"


class StorageFull(ServiceError):
    """The storage has no space left."""

    status = 507
    title = "Storage full"


class TooManyStreams(ServiceError):
    """This process has as many open event streams as it may have."""

    status = 503
    title = "Too many event streams"
    retry_after_s = 5


class StorageUnavailable(ServiceError, OSError):
    """The artifact store cannot be reached. An `OSError`, because a failing disk raises one too."""

    status = 503
    title = "The artifact store does not answer"
