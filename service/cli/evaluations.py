"""`normlab evaluate`: the predictions of a checkpoint."""

from typing import Annotated

import typer
from rich.text import Text

from service.cli.exits import Exit
from service.cli.folding import Facts, Grid
from service.cli.ids import CHECKPOINT, argument, checkpoint_reference
from service.cli.output import console, print_json
from service.cli.session import AsJson, Json, connect
from service.cli.tables import per_cent
from service.report import normalized_by


def evaluate(
    context: typer.Context,
    checkpoint: Annotated[str, argument("job", CHECKPOINT)],
    split: Annotated[str | None, typer.Option(help="One of test, holdout and train.")] = None,
    precision: Annotated[str | None, typer.Option(help="One of float32 and bfloat16.")] = None,
    batch_statistics: Annotated[
        int | None, typer.Option(help="Normalize by the statistics of batches of this many images, as in training.")
    ] = None,
    precise_statistics: Annotated[
        int | None,
        typer.Option(help="Estimate the running averages again over this many training images, as 10000."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a checkpoint on a worker: its error, that of each class, and what is mistaken for what.

    Example: normlab evaluate $JOB --batch-statistics 4
    """
    with connect(context) as client:
        reference = checkpoint_reference(client, checkpoint)
        checkpoint = reference if isinstance(reference, str) else client.checkpoint(reference)["id"]
        found = client.evaluate(
            checkpoint,
            split=split,
            precision=precision,
            batch_statistics=batch_statistics,
            precise_statistics=precise_statistics,
        )
    if as_json:
        print_json(found)
    else:
        console().print(_facts(found))
        if found["predictions"]:
            console().print(_table(found["predictions"]), _confusion(found["predictions"]), sep="\n\n")
    if found["status"] == "failed":
        raise typer.Exit(Exit.FAILED)


def _facts(evaluation: Json) -> Facts:
    predictions = evaluation["predictions"]
    facts = Facts()
    facts.add_row("checkpoint", evaluation["checkpoint"])
    facts.add_row("normalized by", normalized_by(evaluation))
    facts.add_row("precision", evaluation["precision"] or "that of the training")
    if predictions is None:
        facts.add_row(evaluation["status"], Text(evaluation["error"] or ""))
        return facts
    facts.add_row("images", f"{predictions['images']}, {evaluation['split']}")
    facts.add_row("error", per_cent(predictions["error"]))
    facts.add_row("loss", "–" if predictions["loss"] is None else f"{predictions['loss']:.4f}")
    return facts


def _table(predictions: Json) -> Grid:
    """Lay out the classes with their errors, and what each is mistaken for most often."""
    table = Grid("CLASS", "IMAGES", "ERROR", "MISTAKEN FOR", right=("IMAGES", "ERROR"))
    names = [one["name"] for one in predictions["classes"]]
    for number, (one, row) in enumerate(zip(predictions["classes"], predictions["confusion"], strict=True)):
        others = sorted(
            ((count, name) for place, (count, name) in enumerate(zip(row, names, strict=True)) if place != number),
            key=lambda entry: -entry[0],
        )
        mistaken = ", ".join(f"{name} {count}" for count, name in others[:3] if count)
        table.add_row(one["name"], str(one["images"]), per_cent(one["error"]), Text(mistaken or "–"))
    return table


def _confusion(predictions: Json) -> Grid:
    """Lay out the number of images by class (row) and by predicted class (column)."""
    names = [one["name"] for one in predictions["classes"]]
    table = Grid("CLASS \\ PREDICTED", *names, right=names)
    for name, row in zip(names, predictions["confusion"], strict=True):
        table.add_row(name, *map(str, row))
    return table
