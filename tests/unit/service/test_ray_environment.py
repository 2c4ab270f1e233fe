"""The variables of Ray that reach Ray: those of this service, and those of the connection to an existing cluster."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.ray_environment import ray_environment

USERS = {
    "RAY_ADDRESS": "ray://elsewhere:10001",
    "RAY_CLIENT_MODE": "1",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "1",
    "RAY_JOB_CONFIG_JSON_ENV_VAR": "{}",
    "RAY_JOB_ID": "01000000",
    "RAY_NAMESPACE": "theirs",
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",
    "RAY_RUNTIME_ENV": "{}",
    "RAY_RUNTIME_ENV_HOOK": "nowhere.hook",
    "RAY_START_HOOK": "nowhere.hook",
    "RAY_TMPDIR": "/theirs",
}
CONNECTION = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "secret",
    "RAY_AUTH_TOKEN_PATH": "/run/token",
    "RAY_USE_TLS": "1",
    "RAY_TLS_CA_CERT": "/run/ca",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_grpc_keepalive_time_ms": "1000",
}
OTHERS = {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "1", "NORMLAB_RAY_ADDRESS": "10.0.0.1:6379", "MY_RAY_ADDRESS": "x"}
OURS = {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}


def test_no_variable_of_ray_of_the_user_reaches_a_private_cluster() -> None:
    assert ray_environment(USERS | CONNECTION | OTHERS, existing=False) == OTHERS | OURS


def test_those_of_the_connection_reach_an_existing_cluster() -> None:
    assert ray_environment(USERS | CONNECTION | OTHERS, existing=True) == CONNECTION | OTHERS | OURS


@pytest.mark.parametrize("parent", ["python", "uv run"])
def test_the_dispatcher_connects_as_if_they_were_not_set(tmp_path: Path, parent: str) -> None:
    program = tmp_path / "dispatcher.py"
    program.write_text("""
import os, sys
import service.dispatcher.__main__ as dispatcher

async def dispatch(settings, artifacts):
    from ray._private import client_mode_hook, worker
    print([client_mode_hook.is_client_mode_enabled, worker._maybe_modify_runtime_env(None, False)])
    print(sorted(name for name in os.environ if name.startswith("RAY_")))
    return 0

dispatcher.dispatch = dispatch
sys.exit(dispatcher.main())
""")
    environment = dict(os.environ) | USERS | {"RAY_AUTH_MODE": "token", "NORMLAB_RAY_ADDRESS": "127.0.0.1:6379"}
    command = [sys.executable, str(program)]
    if parent == "uv run":
        # Ray finds `uv run` among the parents of its process, by name and arguments.
        uv = tmp_path / "uv"
        uv.symlink_to("/bin/sh")
        command = [str(uv), "run", *command]
        (tmp_path / "run").write_text('"$@"')
    root = str(Path(__file__).parents[3])
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment | {"PYTHONPATH": root}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    found, names = map(ast.literal_eval, ended.stdout.splitlines())
    assert found == [False, None]
    # Ray sets the first one itself when it is imported.
    assert set(names) - {"RAY_CLIENT_MODE"} == {"RAY_AUTH_MODE", "RAY_ENABLE_UV_RUN_RUNTIME_ENV"}
