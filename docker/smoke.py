"""Test the image of the API: import and use everything that it needs of the packages that are installed in part."""

from importlib.metadata import version
from importlib.resources import files
from io import BytesIO

import aiosqlite  # noqa: F401
import alembic.command
import alembic.script  # noqa: F401
import fastapi.middleware
import fastapi.responses
import fastapi.sse  # noqa: F401
import fsspec
import httpx2  # noqa: F401
import numpy as np
import prometheus_client  # noqa: F401
import psycopg
import pydantic_settings  # noqa: F401
import rich.live
import rich.progress
import rich.table  # noqa: F401
import s3fs
import sqlalchemy.dialects.postgresql.psycopg
import sqlalchemy.dialects.sqlite.aiosqlite
import sqlalchemy.ext.asyncio  # noqa: F401
import typer.rich_utils  # noqa: F401
import uvicorn.lifespan.on
import uvicorn.protocols.http.auto  # noqa: F401
import yaml  # noqa: F401
from matplotlib.figure import Figure
from scipy.special import fdtrc, stdtr, stdtrit

assert abs(stdtr(3, stdtrit(3, 0.975)) - 0.975) < 1e-9
assert 0 < fdtrc(2, 3, 1.0) < 1
assert np.linalg.lstsq(np.eye(2), np.ones(2), rcond=None)[0].sum() == 2
assert files("plotly").joinpath("package_data", "plotly.min.js").is_file()
figure = Figure()
figure.add_subplot().errorbar([0, 1], [1, 2], yerr=[0.1, 0.2], label="a")
figure.legend()
for kind in ("svg", "pdf", "png"):
    figure.savefig(BytesIO(), format=kind)
assert version("plotly")
assert version("normlab")
assert psycopg.pq.__impl__ == "binary"
assert fsspec.get_filesystem_class("s3") is s3fs.S3FileSystem
s3fs.S3FileSystem(key="smoke", secret="smoke", endpoint_url="http://127.0.0.1:9").connect()
