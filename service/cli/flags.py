"""Errors that name the flag of a command that they are about, where the API names a field or a parameter."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import typer

from service.client.errors import ApiError
from service.client.requests import InvalidRequest

_SUBJECT = re.compile(r"^.*?(?= (?:is|are|names|belong|has) )", re.DOTALL)
"""What a sentence is about: the words before its verb."""


@contextmanager
def naming(context: typer.Context, fields: Mapping[str, str] | None = None) -> Iterator[None]:
    """Let errors of the service, and of what cannot be sent, name the options of the command.

    Args:
        context: The command.
        fields: The JSON pointers that options set, by the name of the option. Default: the field of the same name.
    """
    options = {
        parameter.name: max(parameter.opts, key=len)
        for parameter in context.command.params
        if parameter.param_type_name == "option" and parameter.name is not None
    }
    given = {
        (fields or {}).get(name, f"/{name}"): flag
        for name, flag in options.items()
        if (source := context.get_parameter_source(name)) and source.name != "DEFAULT"
    }
    try:
        yield
    except ApiError as error:
        if error.status not in (400, 422):
            raise
        errors = [_renamed(one, options, given) for one in error.errors]
        raise ApiError(error.status, error.title, _about(error.detail, options), errors, error.request_id) from error
    except InvalidRequest as error:
        raise InvalidRequest(_of_what_cannot_be_sent(str(error), options, given)) from error


def _of_what_cannot_be_sent(text: str, options: Mapping[str, str], given: Mapping[str, str]) -> str:
    pointer, colon, detail = text.partition(": ")
    if not colon or not pointer.startswith("/"):
        return _about(text, options)
    renamed = _renamed({"pointer": pointer, "detail": detail}, options, given)
    return text if "pointer" in renamed else renamed["detail"]


def _renamed(error: dict[str, str], options: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Return an error about one field with its flag, which replaces the place. Fields of a file keep their pointer."""
    pointer, parameter, header = (error.get(kind) for kind in ("pointer", "parameter", "header"))
    if pointer:
        flag = next(
            (flag for place, flag in given.items() if pointer == place or pointer.startswith(f"{place}/")), None
        )
    else:
        flag = _flag_of(parameter or header or "", options)
    if flag is None:
        return error
    detail = re.sub(r"^\w+(?= (?:is|has) )", flag, error["detail"])
    return {"detail": detail if detail.startswith(flag) else f"{flag}: {detail}"}


def _about(sentence: str, options: Mapping[str, str]) -> str:
    """Return a sentence with the flags of the options that it is about."""
    subject = _SUBJECT.match(sentence)
    if subject is None:
        return sentence
    return re.sub(r"[\w-]+", lambda word: _flag_of(word[0], options) or word[0], subject[0]) + sentence[subject.end() :]


def _flag_of(name: str, options: Mapping[str, str]) -> str | None:
    """Return the flag of a parameter, or of a header such as Idempotency-Key."""
    return options.get(name.lower().replace("-", "_") if "-" in name else name)
