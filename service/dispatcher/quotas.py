"""The limits on the running jobs of each name: a job whose name has reached its limit waits, and others overtake it."""

from collections import Counter
from collections.abc import Collection, Sequence

from service.cluster_report import FullName
from service.jobs import Status
from service.settings import Settings
from service.store import Session, submitters
from service.store.attempts import Pending


class Quotas:
    """The limits of the settings, and how many jobs of each name run."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._running: dict[str, int] = {}

    async def full(self, session: Session) -> Collection[str]:
        """Read how many jobs run. Returns the names that have reached their limits."""
        if not self._settings.limits:
            return ()
        self._running = await submitters.running(session)
        return [one.name for one in self.report()]

    def allowed(self, pending: Sequence[Pending]) -> Sequence[Pending]:
        """Return pending jobs without the queued ones that could not start if all before them did."""
        if not self._settings.limits:
            return pending
        taken = Counter(self._running)
        kept = []
        for job in pending:
            if job.status is Status.QUEUED and job.submitted_by is not None:
                limit = self._settings.quota(job.submitted_by).running
                if limit is not None and taken[job.submitted_by] >= limit:
                    continue
                taken[job.submitted_by] += 1
            kept.append(job)
        return kept

    def report(self) -> list[FullName]:
        """Return the names that have reached their limits."""
        return [
            FullName(name=name, running=running, limit=limit)
            for name, running in sorted(self._running.items())
            if (limit := self._settings.quota(name).running) is not None and running >= limit
        ]
