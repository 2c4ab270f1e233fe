"""The environment variables of Ray's processes and of its driver, the dispatcher.

Ray reads some hundred variables, and several of them change what it does with a job: hooks that replace the runtime
environment or package the working directory, the mode of the client, the address, the job that this process belongs to.
Those of the user are meant for the user's own programs.
"""

import re
from collections.abc import Mapping

OWN = {
    # Under `uv run` Ray packages the working directory, and installs the project again for every worker.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
SERVICE = re.compile(r"NORMLAB_\w+|AWS_\w+|PGPASS\w+")
"""The settings of the service, and the credentials that it uses: those of its database and its artifact store."""
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""The variable that is 0 for a cluster of one node on the loopback interface, as it is by default on macOS."""
CONNECTION = re.compile(rf"RAY_(AUTH_\w+|USE_TLS|TLS_\w+|[a-z]\w+)|{LOOPBACK}")
"""The variables with which an existing cluster is reached: its token, TLS, whether it is on the loopback interface, and
Ray's internal settings (lower case)."""


def ray_environment(environment: Mapping[str, str], *, existing: bool) -> dict[str, str]:
    """Return `environment` with the variables of Ray that this service uses, and no others.

    Args:
        environment: The variables of a process of the user.
        existing: Whether the cluster is one that the user runs; then the variables of its connection are kept.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith("RAY_") or (existing and CONNECTION.fullmatch(name))
    }
    return kept | OWN


def head_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return `environment` without what only the service needs: all processes of Ray and all trainings inherit it."""
    return {name: value for name, value in environment.items() if not SERVICE.fullmatch(name)}
