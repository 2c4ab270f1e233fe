"""`normlab experiment share`, `shares` and `unshare`: links that show one experiment."""

from typing import Annotated

import typer

from service.cli.folding import Grid
from service.cli.ids import ExperimentId, chosen, experiment_id, has_part
from service.cli.output import announce, console, print_json
from service.cli.session import AsJson, connect
from service.cli.tables import age_s, duration, zoned

DAY_S = 24 * 3600


def share(
    context: typer.Context,
    experiment: ExperimentId,
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="Hide names of people and machines, notes and labels.")
    ] = False,
    days: Annotated[
        int | None, typer.Option(min=1, max=3650, help="Days for which the link works. Default: until it is revoked.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a link that shows one experiment and its jobs to people without a token. It is printed only once."""
    with connect(context, fields={"days": "/expires_in_s"}) as client:
        lasts_s = None if days is None else days * DAY_S
        found = client.experiments.share(experiment_id(client, experiment), anonymous=anonymous, expires_in_s=lasts_s)
        # Not the `path` of the answer: the prefix of a proxy may be missing in it.
        url = f"{client.base_url}/experiments/{found['experiment']}#share={found['token']}"
    announce(found | {"url": url}, url, as_json=as_json)


def shares(context: typer.Context, experiment: ExperimentId, as_json: AsJson = False) -> None:
    """List the links of an experiment, newest first, without their tokens."""
    with connect(context) as client:
        found = client.experiments.shares(experiment_id(client, experiment))
    if as_json:
        print_json(found)
    elif found:
        table = Grid("ID", "ANONYMOUS", "BY", "AGE", "EXPIRES")
        for one in found:
            anonymous = "yes" if one["anonymous"] else "no"
            age = duration(age_s(one["created_at"]))
            table.add_row(
                one["id"],
                anonymous,
                one["created_by"] or "–",
                age,
                zoned(one["expires_at"]) if one["expires_at"] else "never",
            )
        console().print(table)
    else:
        console().print("No links.", style="dim")


def unshare(
    context: typer.Context,
    experiment: ExperimentId,
    share: Annotated[
        str, typer.Argument(help="Id of the link, from `shares`: all of it, or a part.", show_default=False)
    ],
) -> None:
    """Revoke a link: from now on it shows nothing."""
    with connect(context) as client:
        experiment = experiment_id(client, experiment)
        having = [one for one in client.experiments.shares(experiment) if has_part(one["id"], "share", share)]
        share = chosen("share", share, having, "`normlab experiment shares` lists them")
        client.experiments.unshare(experiment, share)
        announce(None, f"{share}  revoked")
