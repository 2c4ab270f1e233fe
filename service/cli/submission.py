"""`normlab submit`: submit a job given by flags, a file, or both."""

from collections.abc import Iterable
from typing import Annotated, Any, get_args

import typer
from rich.text import Text

from service.cli.exits import Invalid
from service.cli.output import announce, command_name
from service.cli.requests import read_json
from service.cli.session import AsJson, Json, connect, label_of
from service.cli.watching import follow
from worker.architecture import ModelName
from worker.normalizations.registry import NORMALIZATIONS
from worker.recipes import RecipeName
from worker.spec import DATASET_SIZES, Optimizer, Schedule

FIELDS = {
    "normalization": "/normalization/type",
    "num_groups": "/normalization/num_groups",
    "channels_per_group": "/normalization/channels_per_group",
    "optimizer": "/optimizer/type",
    "learning_rate": "/optimizer/learning_rate",
    "schedule": "/schedule/type",
    "dataset": "/dataset/name",
    "train_limit": "/dataset/train_limit",
    "test_limit": "/dataset/test_limit",
    "holdout": "/dataset/holdout",
    "ema": "/ema/decay",
    "label": "/labels",
}
"""The fields of a job that options set, where their names differ."""


def _one_of(names: Iterable[str]) -> str:
    *others, last = names
    return f"One of {', '.join(others)} and {last}."


def _types(union: Any) -> list[str]:
    """List the types of a part of a job, in the order in which the specification defines them."""
    members, *_ = get_args(union)
    return [member.model_fields["type"].default for member in get_args(members)]


def submit(
    context: typer.Context,
    file: Annotated[
        str | None, typer.Argument(help="A JSON file with a job, - for standard input. Flags override it.")
    ] = None,
    normalization: Annotated[str | None, typer.Option("--normalization", "-n", help=_one_of(NORMALIZATIONS))] = None,
    num_groups: Annotated[int | None, typer.Option(help="Number of groups of group normalization.")] = None,
    channels_per_group: Annotated[
        int | None, typer.Option(help="Channels of each group, instead of --num-groups.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", "-b", help="Images per step and worker.")] = None,
    num_workers: Annotated[int | None, typer.Option(help="Number of workers that train the model together.")] = None,
    model: Annotated[str | None, typer.Option(help=_one_of(get_args(ModelName)))] = None,
    recipe: Annotated[
        str | None, typer.Option(help=f"{_one_of(get_args(RecipeName))} Fills every field that is not given.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the initialization and the data.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate at the reference batch size.")] = None,
    optimizer: Annotated[str | None, typer.Option(help=_one_of(_types(Optimizer)))] = None,
    schedule: Annotated[str | None, typer.Option(help=_one_of(_types(Schedule)))] = None,
    dataset: Annotated[str | None, typer.Option(help=_one_of(DATASET_SIZES))] = None,
    train_limit: Annotated[int | None, typer.Option(help="Maximum number of training images.")] = None,
    test_limit: Annotated[int | None, typer.Option(help="Maximum number of test images.")] = None,
    holdout: Annotated[
        int | None, typer.Option(help="Number of training images to hold out: the best epoch is chosen on them.")
    ] = None,
    augmentation: Annotated[str | None, typer.Option(help="One of crop_flip and none.")] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help="Share of each training label that is spread over all classes.")
    ] = None,
    ema: Annotated[float | None, typer.Option(help="Evaluate the average of the weights with this decay.")] = None,
    init_from: Annotated[
        str | None, typer.Option(help="Id of the checkpoint whose weights the training begins with.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="One of auto, float32 and bfloat16.")] = None,
    deterministic: Annotated[bool | None, typer.Option(help="Reproduce results bit for bit on a GPU too.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the job.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Label of the job, as KEY=VALUE. May be repeated.")] = None,
    priority: Annotated[int | None, typer.Option(help="Jobs of a higher priority start first.")] = None,
    max_retries: Annotated[
        int | None, typer.Option(help="Further attempts after an error that may be temporary.")
    ] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="Submissions with the same key create one job.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the job until it ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a job.

    Example: normlab submit --normalization group --num-groups 8 --batch-size 2 --watch
    """
    request = read_json(file, "a job, as in {...}") if file else {}
    request |= _given(
        model=model,
        recipe=recipe,
        batch_size=batch_size,
        num_workers=num_workers,
        epochs=epochs,
        seed=seed,
        augmentation=augmentation,
        label_smoothing=label_smoothing,
        init_from=init_from,
        precision=precision,
        deterministic=deterministic,
        name=name,
        priority=priority,
        max_retries=max_retries,
    )
    if label:
        request["labels"] = _part(request, "labels") | dict(map(label_of, label))
    _fill(request, "dataset", name=dataset, train_limit=train_limit, test_limit=test_limit, holdout=holdout)
    _choose(request, "normalization", normalization, num_groups=num_groups, channels_per_group=channels_per_group)
    if "type" not in _part(request, "normalization", {"type": None}):
        request["normalization"]["type"] = "group"
    _choose(request, "optimizer", optimizer, learning_rate=learning_rate)
    if "optimizer" in request and "recipe" not in request:
        request["optimizer"] = {"type": "sgd"} | _part(request, "optimizer")
    _choose(request, "schedule", schedule)
    _fill(request, "ema", decay=ema)
    with connect(context, fields=FIELDS) as client:
        job = client.submit(request, idempotency_key)
        if not (as_json and watch):
            hint = [] if watch else [Text(f"{command_name()} watch {job['id']} follows it.", style="dim")]
            announce(job, f"{job['id']}  {job['title']}  {job['status']}", *hint, as_json=as_json)
        if watch:
            follow(client, [job["id"]], as_json=as_json)


def _given(**fields: Any) -> Json:
    return {name: value for name, value in fields.items() if value is not None}


def _part(request: Json, name: str, default: Json | None = None) -> Json:
    part = request.get(name, default if default is not None else {})
    if not isinstance(part, dict):
        raise Invalid(f"{name} is {part!r} in the file: flags can only change an object, as in {{...}}")
    return part


def _fill(request: Json, part: str, **fields: Any) -> None:
    if given := _given(**fields):
        request[part] = _part(request, part) | given


def _choose(request: Json, part: str, kind: str | None, **fields: Any) -> None:
    """Fill in a part that has a type. A type other than that of the file replaces the whole part."""
    if kind is not None and _part(request, part).get("type") != kind:
        request[part] = {"type": kind}
    _fill(request, part, **fields)
