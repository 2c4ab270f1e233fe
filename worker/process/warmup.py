"""The one-time work of a first step: loading the libraries of torch and compiling the kernels of `gn`."""

import torch
from torch.nn import functional as F

from worker.models import build_model
from worker.normalizations.batch import BatchNormalization
from worker.normalizations.group import GroupNormalization

_BATCH_SIZE = 8


def warm_up(device: str) -> None:
    """Take one step of resnet20 with batch normalization and one with group normalization."""
    for normalization in (BatchNormalization(), GroupNormalization()):
        model = build_model("resnet20", normalization, seed=0).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        images = torch.zeros(_BATCH_SIZE, 3, 32, 32, device=device)
        labels = torch.zeros(_BATCH_SIZE, dtype=torch.int64, device=device)
        loss = F.cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.item()
