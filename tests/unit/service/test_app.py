"""The process of the API: its imports, its start and its end."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import httpx2
import pytest

from service.app import create_app
from service.settings import Settings
from service.store import migrate

pytestmark = pytest.mark.anyio


def environment(home: Path, **variables: str) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("NORMLAB_")}
    return ours | {"NORMLAB_HOME": str(home), "NORMLAB_PORT": "0"} | variables


def serve(home: Path, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "service.app", *arguments],
        env=environment(home, **variables),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def migrated(home: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "service.store.migrate"], env=environment(home), check=True, capture_output=True
    )


def lines(stream: IO[str] | None) -> list[dict[str, Any]]:
    assert stream is not None
    return [json.loads(line) for line in stream]


def test_serving_needs_neither_torch_nor_ray_nor_numpy_nor_matplotlib() -> None:
    program = (
        "import sys, tempfile, pathlib\n"
        "from service.app import create_app\n"
        "from service.settings import Settings\n"
        "create_app(Settings(home=pathlib.Path(tempfile.mkdtemp()))).openapi()\n"
        "print([name for name in ('torch', 'ray', 'numpy', 'gn', 'matplotlib') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_it_says_where_it_listens_serves_and_ends_on_a_signal(tmp_path: Path) -> None:
    migrated(tmp_path)
    with serve(tmp_path) as process:
        assert process.stderr is not None
        try:
            said = json.loads(process.stderr.readline())
            assert said["message"] == f"listening on {said['url']}"
            assert httpx2.get(f"{said['url']}/livez", headers={"X-Request-ID": "mine"}).status_code == 200
            assert httpx2.get(f"{said['url']}/v1/jobs", headers={"X-Request-ID": "mine"}).json()["data"] == []
        finally:
            process.send_signal(signal.SIGTERM)
        rest = lines(process.stderr)
    assert process.returncode in (0, -signal.SIGTERM)
    [answered] = [line for line in rest if line.get("path") == "/v1/jobs"]
    assert (answered["request"], answered["status"], answered["method"]) == ("mine", 200, "GET")
    assert not [line for line in rest if line["level"] in ("error", "warning")]


@pytest.mark.parametrize("line", ["\n", ""])
def test_on_standby_it_serves_after_a_line_and_ends_without_one(tmp_path: Path, line: str) -> None:
    migrated(tmp_path)
    with serve(tmp_path, "--standby") as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(line)
        process.stdin.close()
        said = process.stderr.readline()
        if line:
            assert httpx2.get(f"{json.loads(said)['url']}/livez").status_code == 200
            process.send_signal(signal.SIGTERM)
        else:
            assert said == ""
    assert process.returncode in (0, -signal.SIGTERM)


def test_it_does_not_start_on_a_database_that_is_not_its_own_and_says_what_to_do(tmp_path: Path) -> None:
    with serve(tmp_path) as process:
        said = lines(process.stderr)
    assert process.returncode not in (0, None)
    assert any("run `python -m service.store.migrate`" in json.dumps(line) for line in said)


async def test_a_schema_that_is_not_its_own_is_told_by_the_application_too(tmp_path: Path) -> None:
    app = create_app(Settings(home=tmp_path))
    with pytest.raises(migrate.SchemaMismatch, match=r"service\.store\.migrate"):
        async with app.router.lifespan_context(app):
            pass


def test_a_place_for_artifacts_that_is_not_supported_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="NORMLAB_ARTIFACTS_URL is ftp://host"):
        create_app(Settings(home=tmp_path, artifacts_url="ftp://host"))
