"""`python -m service.dispatcher`: runs one dispatcher.

Exit codes: 0 it was stopped by a signal; 2 the settings are not valid; 75 it has to be started again, because Ray is
unreachable, another dispatcher is active, or the database does not answer or is not migrated.
"""

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress

from service import logs
from service.artifacts import ArtifactStore, open_artifacts
from service.dispatcher.leadership import LeadershipLost
from service.open_files import raise_limit
from service.ray_environment import ray_environment
from service.settings import Settings, settings_or_exit
from service.store import Database, DatabaseError, migrate

RESTART = 75
logger = logging.getLogger("service.dispatcher")


async def dispatch(settings: Settings, artifacts: ArtifactStore) -> int:
    """Run a dispatcher until SIGTERM or SIGINT, and return the exit code."""
    # Ray reads its variables when it is imported.
    from service.dispatcher.cluster import Cluster, ClusterGone, ClusterSilent
    from service.dispatcher.dispatcher import Dispatcher

    expected = (ClusterGone, ClusterSilent, LeadershipLost)
    loop = asyncio.get_running_loop()
    async with Database(settings.database) as database:
        try:
            await migrate.settle(database)
        except (migrate.SchemaMismatch, DatabaseError) as error:
            logger.error("%s", error)
            return RESTART
        dispatcher = Dispatcher(settings, database, artifacts, Cluster(settings))
        running = asyncio.create_task(dispatcher.run())
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, running.cancel)
        await asyncio.wait([running])
        if running.cancelled():
            return 0
        reason = running.exception()
        assert reason is not None, "a dispatcher ends only by an error"
        if isinstance(reason, BaseExceptionGroup) and reason.split(expected)[1] is None:
            logger.error("%s", "; ".join(map(str, reason.exceptions)))
            return RESTART
        raise reason


def main() -> int:
    """Read the settings, run a dispatcher, and return the exit code."""
    settings = settings_or_exit()
    if settings.ray_address is None:
        print("NORMLAB_RAY_ADDRESS is not set: set it to host:port of the Ray cluster", file=sys.stderr)
        return 2
    try:
        artifacts = open_artifacts(settings.artifacts)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    logs.configure(settings.log_level)
    if warning := raise_limit():
        logger.warning(warning)
    environment = ray_environment(os.environ, existing=True)
    os.environ.clear()
    os.environ.update(environment)
    with suppress(KeyboardInterrupt):
        return asyncio.run(dispatch(settings, artifacts))
    return 0


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    # Without the handlers of Ray, which would wait for a head that may not answer.
    os._exit(code)
