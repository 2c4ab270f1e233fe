"""The precision is that of the spec; "auto" depends on the device."""

from pathlib import Path
from typing import Any

import pytest
import torch

from worker.numerics.precision import autocast, choose_precision, has_bfloat16, numeric_settings

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("precision", "device", "has_bf16", "expected"),
    [
        ("auto", CPU, True, "float32"),
        ("auto", GPU, True, "bfloat16"),
        ("auto", GPU, False, "float32"),
        ("float32", GPU, True, "float32"),
        ("bfloat16", CPU, False, "bfloat16"),
    ],
)
def test_auto_is_bfloat16_only_on_a_gpu_that_has_it(
    make_spec: Any,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    device: torch.device,
    has_bf16: bool,
    expected: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or has_bf16)

    assert choose_precision(make_spec(precision=precision), device) == expected


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("resolved", ["float32", "bfloat16"])
def test_auto_is_what_it_was_resolved_to_before(
    make_spec: Any, monkeypatch: pytest.MonkeyPatch, device: torch.device, resolved: Any
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)

    assert choose_precision(make_spec(precision="auto"), device, resolved) == resolved
    assert choose_precision(make_spec(precision="float32"), device, resolved) == "float32"


@pytest.mark.parametrize(("avx512", "amx"), [(False, False), (True, False), (False, True)])
def test_a_cpu_computes_in_bfloat16_with_avx512_or_amx(
    monkeypatch: pytest.MonkeyPatch, avx512: bool, amx: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)

    assert has_bfloat16(CPU) == (avx512 or amx)


def test_this_cpu_is_asked_as_the_kernel_describes_it() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()

    assert has_bfloat16(CPU) == ("avx512_bf16" in flags or "amx_tile" in flags)


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_activations_have_the_precision_and_weights_keep_theirs(precision: Any, dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(2, 2)
    with autocast(precision, CPU):
        assert layer(torch.ones(1, 2)).dtype == dtype
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize("deterministic", [False, True])
def test_on_a_gpu_float32_is_not_tf32_and_the_settings_are_restored(make_spec: Any, deterministic: bool) -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    with numeric_settings(make_spec(deterministic=deterministic), GPU):
        assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.benchmark is not deterministic
        assert torch.are_deterministic_algorithms_enabled() is deterministic
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark) == before
    assert not torch.are_deterministic_algorithms_enabled()
