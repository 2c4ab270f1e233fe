"""What the link of a share permits: to read one experiment, its results, and what is public of its jobs.

Everything that is not listed here is refused, so that a new route is closed to links until somebody decides otherwise.
"""

from collections.abc import Sequence

from fastapi import Request

from service.errors import Forbidden, Unauthorized
from service.experiments.quantities import LABELS
from service.store import Database, shares
from service.store.tables import Share

ABOUT_THE_LINK = frozenset({"get_session"})
OF_THE_EXPERIMENT = frozenset(
    {"get_experiment", "get_experiment_results", "get_report", "get_experiment_figure", "get_experiment_curves"}
)
"""Operations on the experiment in the path."""
OF_A_JOB = frozenset({"get_job", "list_metrics"})
"""Operations on the job in the path."""
OF_JOBS = frozenset({"list_curves", "get_curves_figure"})
"""Operations on the jobs in the query."""
LISTING = "list_jobs"
BY_QUANTITY = ("rows", "columns", "where", "sort")
"""The parameters that may name a label."""
FILTERS = frozenset({"experiment", "status", "sort", "limit", "cursor", "count"})
"""The parameters with which jobs may be listed: a filter by a label or a name would tell who has it."""


async def permitted(request: Request, database: Database, token: str) -> Share:
    """Return the share of a token.

    Raises:
        Unauthorized: There is no such share, or it has expired.
        Forbidden: It does not permit this request.
    """
    async with database.read() as session:
        share = await shares.of_token(session, token)
        if share is None:
            raise Unauthorized("This link has been revoked or has expired: ask for a new one.")
        # The middleware forbids caches to keep the answer.
        request.state.shared = True
        operation = getattr(request.scope["route"], "operation_id", None)
        if operation in ABOUT_THE_LINK:
            return share
        if share.anonymous and _names_labels(request):
            raise Forbidden("This link hides labels: ask for another field.")
        jobs = _jobs(request, operation)
        is_permitted = (
            (operation in OF_THE_EXPERIMENT and request.path_params.get("experiment_id") == share.experiment_id)
            or (bool(jobs) and await shares.are_shared(session, share, jobs))
            or (operation == LISTING and _lists_the_experiment(request, share))
        )
    if request.method not in ("GET", "HEAD") or not is_permitted:
        raise Forbidden(
            f"This link shows experiment {share.experiment_id}, its results and its jobs, and nothing else. It changes "
            "nothing."
        )
    return share


def _jobs(request: Request, operation: str | None) -> Sequence[str]:
    if operation in OF_A_JOB:
        return [request.path_params["job_id"]]
    return request.query_params.getlist("job") if operation in OF_JOBS else []


def _names_labels(request: Request) -> bool:
    """Whether the answer would tell labels, as a table by one does, or a cursor of an order by one."""
    asked = [value for name in BY_QUANTITY for value in request.query_params.getlist(name)]
    return any(LABELS in value for value in asked)


def _lists_the_experiment(request: Request, share: Share) -> bool:
    query = request.query_params
    return query.getlist("experiment") == [share.experiment_id] and query.keys() <= FILTERS
