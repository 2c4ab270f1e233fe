"""The precision and the memory format that a training computes in, and reproducible results on a GPU."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from worker.events import Precision as Precision
from worker.spec import TrainingSpec

# Measured with resnet20 on a CPU: a step takes 6 to 25 % less time than in the contiguous format, at every batch size
# from 2 to 128. Training and evaluation share one format because the last bits of a convolution depend on it.
MEMORY_FORMAT = torch.channels_last


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes in bfloat16: a GPU that supports it, or a CPU with AVX512-BF16 or AMX.

    torch emulates bfloat16 on older GPUs, which is slower than float32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def choose_precision(spec: TrainingSpec, device: torch.device, resolved: Precision | None = None) -> Precision:
    """Return the precision of the spec; for "auto", the one that was `resolved` for the training before.

    Where none was, it is bfloat16 on a GPU that supports it, otherwise float32. On CPUs with bfloat16, the service
    resolves it by a measurement (`worker.training.comparison`).
    """
    if spec.precision != "auto":
        return spec.precision
    if resolved is not None:
        return resolved
    return "bfloat16" if device.type == "cuda" and has_bfloat16(device) else "float32"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which activations have `precision`; weights and optimizer updates stay in float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


@contextmanager
def numeric_settings(spec: TrainingSpec, device: torch.device) -> Iterator[None]:
    """Apply torch's global numeric settings for a training on a GPU, and restore them afterwards.

    Float32 convolutions do not use TF32. With `spec.deterministic`, every operation gives the same bits each time; this
    also needs CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment before the process first uses the GPU. A CPU needs no
    settings: its results are reproducible for a given number of threads.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(spec.deterministic)
    try:
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=not spec.deterministic, deterministic=spec.deterministic, allow_tf32=False
        ):
            yield
    finally:
        torch.use_deterministic_algorithms(before)
