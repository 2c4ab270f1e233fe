"""The command that END_COMMAND of the settings names: it is run at the end of a job or an experiment."""

import asyncio
import json
import os
import shlex
import signal
from contextlib import suppress

from service.store.tables import Delivery

TIMEOUT_S = 60.0
"""Seconds after which the command and its children are killed."""


async def run(command: str, delivery: Delivery) -> str | None:
    """Run the command without a shell, with the JSON of the webhook on its standard input.

    Its environment has `NORMLAB_DELIVERY`, the id of the delivery, and no settings of the service, some of which are
    secrets. Its standard error is that of the dispatcher.

    Returns:
        Why it has to be run again; None if it exited with 0.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NORMLAB_")}
    try:
        process = await asyncio.create_subprocess_exec(
            *shlex.split(command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            env=environment | {"NORMLAB_DELIVERY": delivery.id},
            start_new_session=True,
        )
    except OSError as error:
        return f"the command cannot be run: {error}"
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await process.communicate(json.dumps(delivery.body).encode())
    except TimeoutError:
        return f"the command had not ended after {TIMEOUT_S:g} s"
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return None if process.returncode == 0 else f"the command exited with {process.returncode}"
