"""Ids on the command line: whole, a part of one, or `last`; what a shell completes them to."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal

import typer

from service.cli.exits import Invalid, NotFound
from service.cli.session import Json, open_client
from service.client import Client, ClientError
from service.client.job_calls import CheckpointRef

Noun = Literal["job", "experiment"]
LAST = "last"
MIN_PART = 4
"""The least number of characters that select an id."""
_WHOLE = 26
"""The number of characters of an id after its prefix."""
_LISTED = 5
"""The number of candidates that an error lists."""
_OFFERED = 20
"""The number of ids that a shell offers."""
_LISTS: dict[Noun, str] = {"job": "normlab jobs", "experiment": "normlab experiment list"}


def _completion(noun: Noun) -> Callable[[typer.Context, str], list[tuple[str, str]]]:
    def complete(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
        address = context.find_root().params.get("url")
        # A shell has no place for an error.
        with contextlib.suppress(ClientError, ValueError, Invalid), open_client(address, timeout_s=2) as client:
            return [(one["id"], one["title"]) for one in _having(client, noun, incomplete, _OFFERED)]
        return []

    return complete


def argument(noun: Noun, help: str) -> Any:
    """An argument that takes ids, which a shell completes."""
    return typer.Argument(help=help, show_default=False, autocompletion=_completion(noun))


def option(noun: Noun, *flags: str, help: str) -> Any:
    """An option that takes an id, which a shell completes."""
    return typer.Option(*flags, help=help, autocompletion=_completion(noun))


FORM = f"all of it, or at least {MIN_PART} characters of its beginning or end; `{LAST}`: the newest one."
FORMS = f"all of each, or at least {MIN_PART} characters of its beginning or end; `{LAST}`: the newest one."
CHECKPOINT = f"The id of a checkpoint, or JOB (its best one), JOB/best or JOB/latest. JOB: {FORM}"
JobId = Annotated[str, argument("job", f"Id of the job: {FORM}")]
JobIds = Annotated[list[str], argument("job", f"Ids of the jobs: {FORMS}")]
ExperimentId = Annotated[str, argument("experiment", f"Id of the experiment: {FORM}")]
ExperimentIds = Annotated[list[str], argument("experiment", f"Ids of the experiments: {FORMS}")]


def job_id(client: Client, given: str) -> str:
    """Return the id of the job that `given` names: `last` is the newest one."""
    return _newest(client, "job") if given == LAST else whole_id(client, "job", given)


def experiment_id(client: Client, given: str) -> str:
    """Return the id of the experiment that `given` names: `last` is the newest one."""
    return _newest(client, "experiment") if given == LAST else whole_id(client, "experiment", given)


def checkpoint_reference(client: Client, given: str) -> CheckpointRef:
    """Return what names a checkpoint: its id, or a job with `best` or `latest` after a slash; by default the best."""
    job, slash, which = given.partition("/")
    if given.startswith("checkpoint_") and not slash:
        return given
    return job_id(client, job), which if slash else "best"


def whole_id(client: Client, noun: Noun, given: str) -> str:
    """Return the id of which `given` is the whole, the beginning or the end, with or without its prefix.

    Raises:
        Invalid: It is a part of several ids, or too short.
        NotFound: It is a part of none.
    """
    part = given.removeprefix(f"{noun}_")
    if not given or (part != given and len(part) == _WHOLE):
        return given  # The service answers whether it exists.
    return chosen(noun, given, list(_having(client, noun, given, 100)), f"`{_LISTS[noun]}` lists them")


def chosen(noun: str, given: str, candidates: Sequence[Json], advice: str) -> str:
    """Return the id of the one candidate that `given` selects; a whole id, however short, selects itself.

    Raises:
        Invalid: It is a part of several ids, or too short.
        NotFound: It is a part of none.
    """
    part = given.removeprefix(f"{noun}_")
    ids: list[str] = [one["id"] for one in candidates]
    if f"{noun}_{part}" in ids:
        return f"{noun}_{part}"
    accepted = f"give all of the id, or at least {MIN_PART} characters of its beginning or end after `{noun}_`"
    if len(part) < MIN_PART:
        raise Invalid(f"the id is {given!r}: {accepted}. {advice}")
    if not ids:
        raise NotFound(f"there is no {noun} {given!r}: {accepted}. {advice}")
    if len(ids) > 1:
        lines = [f"  {one['id']}  {one.get('title', '')}".rstrip() for one in candidates[:_LISTED]]
        more = [f"  and {len(ids) - _LISTED} more"] if len(ids) > _LISTED else []
        raise Invalid("\n".join([f"{given!r} is a part of several ids: give more of one", *lines, *more]))
    return ids[0]


def has_part(id_: str, prefix: str, part: str) -> bool:
    """Return whether an id begins or ends with `part`, which may lack `prefix_`."""
    part = part.removeprefix(f"{prefix}_")
    return id_.removeprefix(f"{prefix}_").startswith(part) or id_.endswith(part)


def _having(client: Client, noun: Noun, part: str, most: int) -> Iterator[Json]:
    """Yield the newest of those whose id begins or ends with a part."""
    wanted = part or None
    if noun == "job":
        return client.jobs(max_jobs=most, id=wanted)
    return client.experiments.list(max_experiments=most, id=wanted)


def _newest(client: Client, noun: Noun) -> str:
    newest = next(_having(client, noun, "", 1), None)
    if newest is None:
        raise Invalid(f"there is no {noun} yet, so `{LAST}` names none")
    return str(newest["id"])
