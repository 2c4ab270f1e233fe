"""In which numbers a training computes: precision, and what makes a GPU repeat itself."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch

from worker.spec import TrainingSpec

Precision = Literal["float32", "bfloat16"]

# Measured on a CPU with resnet20: a step takes 6 to 25 % less time than in the contiguous format, at every batch size
# from 2 to 128. One format for training and evaluation, because the last bits of a convolution depend on it.
MEMORY_FORMAT = torch.channels_last


def choose_precision(spec: TrainingSpec, device: torch.device) -> Precision:
    """The spec's precision; "auto" is bfloat16 on a GPU that has it, else float32."""
    if spec.precision != "auto":
        return spec.precision
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Activations in `precision`; weights and their updates stay float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


@contextmanager
def numerics(spec: TrainingSpec, device: torch.device) -> Iterator[None]:
    """On a GPU: float32 means float32 (no TF32), and with `deterministic` every operation repeats bit for bit.

    A CPU needs nothing: its operations repeat at the same number of threads. `deterministic` on a GPU needs
    CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment before the process first touches it.
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
