"""The Python client of normlab: `import normlab`.

It imports neither torch nor the parts of the service, so a script or a notebook starts at once:

    with normlab.Client() as client:
        experiment = client.experiments.submit({"builtin": "paper-batch-size", "budget": 0.01})
        client.experiments.results(experiment["id"]).to_pandas()

`AsyncClient` has the same methods for asyncio.
"""

from service.client import (
    DEFAULT_URL,
    ApiError,
    AsyncClient,
    Client,
    ClientError,
    Comparison,
    ConnectionFailed,
    CorruptDownload,
    Event,
    InvalidRequest,
    NotNormlab,
    Records,
    Results,
)
from service.version import normlab_version

__all__ = [
    "DEFAULT_URL",
    "ApiError",
    "AsyncClient",
    "Client",
    "ClientError",
    "Comparison",
    "ConnectionFailed",
    "CorruptDownload",
    "Event",
    "InvalidRequest",
    "NotNormlab",
    "Records",
    "Results",
]
__version__ = normlab_version()
