"""Without what Triton needs for a launch, gn falls back to torch and says why."""

import re
import subprocess
import warnings
from collections.abc import Iterator
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
