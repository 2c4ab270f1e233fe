"""Without what Triton needs for a launch, gn falls back to torch and says why."""

import os
import re
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gn import backends, reference
from gn.cuda import loader

pytest.importorskip("triton", reason="Triton is available for Linux only")


@pytest.fixture(autouse=True)
def initial_state() -> Iterator[None]:
    """Nothing is known about Triton, and nobody has been warned."""
    caches = (loader.failure, backends._cuda, backends._warn)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


class Driver:
    """Triton's driver, which compiles its launcher when it is first used."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    @property
    def active(self) -> SimpleNamespace:
        if self.error is not None:
            raise self.error
        return SimpleNamespace(utils=None)


# Stands for a tensor on a GPU.
X: Any = SimpleNamespace(
    is_cpu=False, is_cuda=True, is_meta=False, dtype=torch.float32, device="cuda:0", numel=lambda: 8
)

FAILURES = {
    "Failed to find C compiler": RuntimeError("Failed to find C compiler. Please specify via CC."),
    "gcc failed; are the headers of Python installed?": subprocess.CalledProcessError(1, ["gcc", "main.c"]),
    "libcuda.so cannot found": AssertionError("libcuda.so cannot found!"),
}


@pytest.mark.parametrize("reason", FAILURES)
def test_a_launcher_that_cannot_be_compiled_is_replaced_with_one_warning(
    reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("triton.runtime.driver", Driver(FAILURES[reason]))
    with pytest.warns(RuntimeWarning, match=re.escape(reason)):
        assert backends.select(X) is reference
    with warnings.catch_warnings(action="error"):
        assert backends.select(X) is reference


def test_the_kernels_backend_raises_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triton.runtime.driver", Driver(RuntimeError("no compiler")))
    with backends.backend("kernels"), pytest.raises(RuntimeError, match="cannot launch kernels: no compiler"):
        backends.select(X)


def test_without_triton_the_warning_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "find_spec", lambda name: None)
    with pytest.warns(RuntimeWarning, match="Triton is not installed"):
        assert backends.select(X) is reference


def test_with_all_that_triton_needs_the_kernels_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from gn.cuda import kernels

    monkeypatch.setattr("triton.runtime.driver", Driver(None))
    with warnings.catch_warnings(action="error"):
        assert backends.select(X) is kernels


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the driver's libraries, which this process has loaded; Triton's driver works."""
    folder = tmp_path / "driver libraries"
    folder.mkdir()
    maps = tmp_path / "maps"
    maps.write_text(
        "55e0-55e1 r--p 00000000 fe:00 12 /usr/bin/python3.12\n7f00-7f01 rw-p 00000000 00:00 0\n"
        f"7f10-7f11 r--p 00000000 fe:00 13 {folder}/libcuda.so.580.65.06\n"
    )
    monkeypatch.setattr(loader, "_MAPS", maps)
    monkeypatch.setattr("triton.runtime.driver", Driver(None))
    # A value of the test, which monkeypatch replaces by that from before.
    monkeypatch.setenv("TRITON_LIBCUDA_PATH", "")
    return folder


def test_triton_is_told_where_the_library_of_the_driver_is(libraries: Path) -> None:
    (libraries / "libcuda.so.1").touch()
    assert loader.failure() is None
    assert os.environ["TRITON_LIBCUDA_PATH"] == str(libraries)


def test_triton_searches_itself_where_it_would_not_find_the_library_there(libraries: Path) -> None:
    assert loader.failure() is None
    assert not os.environ["TRITON_LIBCUDA_PATH"]


def test_a_folder_that_the_user_names_is_kept(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (libraries / "libcuda.so.1").touch()
    monkeypatch.setenv("TRITON_LIBCUDA_PATH", "/elsewhere")
    assert loader.failure() is None
    assert os.environ["TRITON_LIBCUDA_PATH"] == "/elsewhere"
