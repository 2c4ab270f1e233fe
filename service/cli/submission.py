"""`normlab submit`: a job from flags, from a file, or from both."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.exits import Invalid
from service.cli.session import AsJson, Json, connect, console, print_json
from service.cli.watching import follow


def submit(
    context: typer.Context,
    file: Annotated[
        str | None, typer.Argument(help="A job as JSON; - reads standard input. Flags go over what it says.")
    ] = None,
    normalization: Annotated[
        str | None, typer.Option("--normalization", "-n", help="batch, sync_batch, layer, instance, group or none.")
    ] = None,
    num_groups: Annotated[int | None, typer.Option(help="Groups of a group normalization.")] = None,
    channels_per_group: Annotated[
        int | None, typer.Option(help="Channels of a group, instead of --num-groups.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", "-b", help="Images of a worker a step.")] = None,
    num_workers: Annotated[int | None, typer.Option(help="Workers that train the model together.")] = None,
    model: Annotated[str | None, typer.Option(help="resnet20, resnet56, resnet18 or vgg.")] = None,
    recipe: Annotated[str | None, typer.Option(help="labml or wu-he: fills what is not given.")] = None,
    epochs: Annotated[int | None, typer.Option()] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At the reference batch size.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd or adam.")] = None,
    schedule: Annotated[str | None, typer.Option(help="constant, multistep or cosine.")] = None,
    dataset: Annotated[str | None, typer.Option(help="cifar10 or synthetic.")] = None,
    train_limit: Annotated[int | None, typer.Option(help="Only so many training images.")] = None,
    test_limit: Annotated[int | None, typer.Option(help="Only so many test images.")] = None,
    holdout: Annotated[int | None, typer.Option(help="Training images kept aside to evaluate on.")] = None,
    augmentation: Annotated[str | None, typer.Option(help="crop_flip or none.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16.")] = None,
    deterministic: Annotated[bool | None, typer.Option(help="Bit-identical on a GPU too.")] = None,
    name: Annotated[str | None, typer.Option(help="For people.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, to find the job by; may be repeated.")] = None,
    priority: Annotated[int | None, typer.Option(help="Higher goes first.")] = None,
    max_retries: Annotated[int | None, typer.Option(help="Attempts after an error that may pass.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key twice makes one job.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the job to its end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a job: normlab submit --normalization group --num-groups 8 --batch-size 2 --watch"""
    request = _read(file) if file else {}
    request |= _given(
        model=model,
        recipe=recipe,
        batch_size=batch_size,
        num_workers=num_workers,
        epochs=epochs,
        seed=seed,
        augmentation=augmentation,
        precision=precision,
        deterministic=deterministic,
        name=name,
        priority=priority,
        max_retries=max_retries,
    )
    if label:
        request["labels"] = _part(request, "labels") | dict(map(_label, label))
    _fill(request, "dataset", name=dataset, train_limit=train_limit, test_limit=test_limit, holdout=holdout)
    _choose(request, "normalization", normalization, num_groups=num_groups, channels_per_group=channels_per_group)
    if "type" not in _part(request, "normalization", {"type": None}):
        request["normalization"]["type"] = "group"
    _choose(request, "optimizer", optimizer, learning_rate=learning_rate)
    if "optimizer" in request and "recipe" not in request:
        request["optimizer"] = {"type": "sgd"} | _part(request, "optimizer")
    _choose(request, "schedule", schedule)
    with connect(context) as client:
        job = client.submit(request, idempotency_key)
        if as_json and not watch:
            print_json(job)
        elif not as_json:
            out = console()
            out.print(f"{job['id']}  {job['title']}  {job['status']}")
            if not watch:
                out.print(f"normlab watch {job['id']} follows it.", style="dim")
        if watch:
            follow(client, [job["id"]], as_json=as_json)


def _read(file: str) -> Json:
    source = "standard input" if file == "-" else file
    text = sys.stdin.read() if file == "-" else Path(file).read_text()
    try:
        request = json.loads(text)
    except ValueError as error:
        raise Invalid(f"{source} is not JSON: {error}") from error
    if not isinstance(request, dict):
        raise Invalid(f"{source} holds no JSON object: a job is one, as in {{...}}")
    return request


def _given(**fields: Any) -> Json:
    return {name: value for name, value in fields.items() if value is not None}


def _part(request: Json, name: str, default: Json | None = None) -> Json:
    part = request.get(name, default if default is not None else {})
    if not isinstance(part, dict):
        raise Invalid(f"{name} is {part!r} in the file: flags can only go over an object, as in {{...}}")
    return part


def _fill(request: Json, part: str, **fields: Any) -> None:
    if given := _given(**fields):
        request[part] = _part(request, part) | given


def _choose(request: Json, part: str, kind: str | None, **fields: Any) -> None:
    """As `_fill`; but another type keeps nothing of the one in the file."""
    if kind is not None and _part(request, part).get("type") != kind:
        request[part] = {"type": kind}
    _fill(request, part, **fields)


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise Invalid(f"--label is {text!r}: give it as KEY=VALUE")
    return key, value
