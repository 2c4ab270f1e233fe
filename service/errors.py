"""What can go wrong for a caller. The API answers each as a problem (RFC 9457)."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple


class ServiceError(Exception):
    """A request that cannot be carried out; its message is a sentence for the person who asked."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong"


class NotFound(ServiceError):
    """No such thing."""

    status = 404
    title = "Not found"

    def __init__(self, noun: str, id_: str) -> None:
        super().__init__(f"There is no {noun} {id_}.")


class Conflict(ServiceError):
    """The thing is in a state in which this cannot be done."""

    status = 409
    title = "Not possible in this state"


class Unprocessable(ServiceError):
    """The request is understood and cannot be meant so."""

    status = 422
    title = "Invalid request"


class FieldError(NamedTuple):
    """What is wrong with one field of a request."""

    path: tuple[str | int, ...]
    detail: str


class InvalidFields(Unprocessable):
    """Fields of the request that each look right and cannot work as they are meant."""

    def __init__(self, fields: Sequence[FieldError]) -> None:
        self.fields = list(fields)
        several = f"{len(self.fields)} fields are not valid."
        super().__init__(self.fields[0].detail if len(self.fields) == 1 else several)


class Unauthorized(ServiceError):
    """No token, or an unknown one."""

    status = 401
    title = "Not authorized"


class Forbidden(ServiceError):
    """A token that may not do this."""

    status = 403
    title = "Not allowed"


class NotAcceptable(ServiceError):
    """None of the media types that the client accepts can be made here."""

    status = 406
    title = "Not acceptable"


class RangeNotSatisfiable(ServiceError):
    """Bytes were asked for that the file does not have."""

    status = 416
    title = "Range not satisfiable"


class CorruptFile(ServiceError):
    """A stored file is not what it was when it was stored."""

    status = 500
    title = "Corrupt file"


class StorageFull(ServiceError):
    """There is no room for what was to be stored."""

    status = 507
    title = "Storage full"


class StorageUnavailable(ServiceError, OSError):
    """Stored files cannot be reached now; an `OSError`, as it would be of a disk."""

    status = 503
    title = "The artifact store does not answer"
