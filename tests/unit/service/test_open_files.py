"""The limit of open files: raised within the hard limit, with one warning if it remains low."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from service.open_files import raise_limit

UNLIMITED = resource.RLIM_INFINITY


class Limits:
    """Stands in for the limits of a process."""

    def __init__(self, soft: int, hard: int, refused: bool = False) -> None:
        self.now, self.refused = (soft, hard), refused

    def get(self, which: int) -> tuple[int, int]:
        assert which == resource.RLIMIT_NOFILE
        return self.now

    def set(self, which: int, limits: tuple[int, int]) -> None:
        if self.refused:
            raise ValueError("not allowed to raise maximum limit")
        self.now = limits


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "warns"),
    [
        (256, 1048576, 65536, False),
        (1024, UNLIMITED, 65536, False),
        (1024, 4096, 4096, False),
        (256, 1024, 1024, True),
        (100000, 1048576, 100000, False),
        (UNLIMITED, UNLIMITED, UNLIMITED, False),
    ],
)
def test_the_soft_limit_is_raised_within_the_hard_one(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: int, warns: bool
) -> None:
    limits = Limits(soft, hard)
    monkeypatch.setattr("resource.getrlimit", limits.get)
    monkeypatch.setattr("resource.setrlimit", limits.set)
    warning = raise_limit()
    assert limits.now == (raised, hard)
    assert (warning is not None) is warns
    if warning:
        assert f"may open {raised} files" in warning


def test_a_limit_that_cannot_be_raised_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(256, 1048576, refused=True)
    monkeypatch.setattr("resource.getrlimit", limits.get)
    monkeypatch.setattr("resource.setrlimit", limits.set)
    assert "may open 256 files" in str(raise_limit())


@pytest.mark.parametrize(
    ("module", "patched", "replaced_by"),
    [
        ("service.app", "create_server", "lambda settings: type('S', (), {'run': lambda self: show()})()"),
        ("service.dispatcher.__main__", "dispatch", "show_later"),
    ],
)
def test_each_process_of_the_service_raises_it(tmp_path: Path, module: str, patched: str, replaced_by: str) -> None:
    program = f"""
import importlib, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1024))
module = importlib.import_module({module!r})
def show():
    print(resource.getrlimit(resource.RLIMIT_NOFILE))
async def show_later(settings, artifacts):
    show()
module.{patched} = {replaced_by}
module.main()
"""
    environment = {"NORMLAB_HOME": str(tmp_path), "NORMLAB_RAY_ADDRESS": "127.0.0.1:1"}
    root = Path(__file__).parents[3]
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.stdout == "(1024, 1024)\n", ended.stderr
    assert ended.stderr.count("may open 1024 files") == 1
