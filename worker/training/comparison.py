"""How fast a training step is in float32 and in bfloat16 on this CPU, measured when a job leaves the choice to it.

A CPU with bfloat16 instructions is not always faster with them: torch has had bfloat16 convolutions that were many
times slower than those in float32. The convolutions decide, so one normalization stands for all.
"""

import time

import torch
from torch.nn import functional as F

from worker.architecture import IMAGE_CHANNELS, IMAGE_SIZE, NUM_CLASSES, ModelName
from worker.events import Precision
from worker.models import build_model
from worker.normalizations.group import GroupNormalization
from worker.numerics.precision import MEMORY_FORMAT, autocast

ROUNDS = 5
LIMIT_S = 2.0
"""No further round begins after this time. There is at least one."""
MAX_BATCH_SIZE = 32
"""Larger batches are measured as this one, which bounds the time: they gain at least as much."""


def step_seconds(model: ModelName, batch_size: int) -> dict[Precision, float]:
    """Return the duration of a training step in each precision: the fastest of some steps that take turns."""
    network = build_model(model, GroupNormalization(), seed=0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9, fused=True)
    count = min(batch_size, MAX_BATCH_SIZE)
    images = torch.ones(count, IMAGE_CHANNELS, IMAGE_SIZE, IMAGE_SIZE).contiguous(memory_format=MEMORY_FORMAT)
    labels = torch.arange(count) % NUM_CLASSES

    def seconds(precision: Precision) -> float:
        began = time.perf_counter()
        with autocast(precision, images.device):
            logits = network(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return time.perf_counter() - began

    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    began = time.perf_counter()
    for precision in precisions:
        seconds(precision)  # prepares the convolutions
    fastest = {precision: seconds(precision) for precision in precisions}
    for _ in range(1, ROUNDS):
        if time.perf_counter() - began > LIMIT_S:
            break
        fastest = {precision: min(best, seconds(precision)) for precision, best in fastest.items()}
    return fastest
