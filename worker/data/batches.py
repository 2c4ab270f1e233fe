"""The images as tensors: every epoch's order, crops and mirroring, and batches of them on a device.

Everything random is drawn for a whole epoch from (seed, epoch) on the CPU. So an image is cropped alike at every batch
size and on every device, and the middle of an epoch can be entered without replaying its beginning.
"""

import hashlib
import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from worker.architecture import IMAGE_CHANNELS, IMAGE_SIZE
from worker.data.datasets import DatasetError, ImageDataset, split
from worker.spec import DATASET_SIZES, TrainingSpec
from worker.training.precision import MEMORY_FORMAT

PADDING = 4

CHANNEL_STATISTICS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "cifar10": ((0.49139968, 0.48215841, 0.44653091), (0.24703223, 0.24348513, 0.26158784)),
    "synthetic": ((0.48391343, 0.52248308, 0.52875722), (0.25054405, 0.25134525, 0.25105026)),
}
"""Mean and standard deviation of each channel over all training images, pixels in [0, 1]."""

SYMMETRIC_STATISTICS = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

# Small batches are prepared together: the same few tensor operations then serve many steps.
CHUNK_IMAGES = 512
EVAL_BATCH_SIZE = 250

Batch = tuple[Tensor, Tensor]


def generator(*key: object) -> torch.Generator:
    """A CPU generator whose numbers are a function of `key` alone."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


@dataclass(frozen=True)
class EpochPlan:
    """What an epoch does to its n training images: the order, and each image's crop and mirroring (by position)."""

    order: Tensor
    """int64 (n,): positions in the list of training images."""
    offsets: Tensor | None
    """int64 (2, n): rows and columns, 0 to 8, of the crop of an image padded by 4; None leaves images as they are."""
    mirrored: Tensor | None
    """bool (n,)."""


def plan_epoch(spec: TrainingSpec, epoch: int) -> EpochPlan:
    """The plan of `epoch` (from 1): a function of the seed, the epoch and the number of images."""
    count = spec.dataset.num_train
    order = torch.randperm(count, generator=generator(spec.seed, "order", epoch))
    if spec.augmentation == "none":
        return EpochPlan(order, None, None)
    # Drawn per image, not per position: so they do not depend on the order.
    crops = generator(spec.seed, "augmentation", epoch)
    offsets = torch.randint(2 * PADDING + 1, (2, count), generator=crops)
    mirrored = torch.randint(2, (count,), generator=crops, dtype=torch.bool)
    return EpochPlan(order, offsets[:, order], mirrored[order])


def crop_and_mirror(images: Tensor, offsets: Tensor, mirrored: Tensor) -> Tensor:
    """Each image padded by 4 black pixels, cropped to 32×32 at its own offset, then mirrored where `mirrored` says.

    images: uint8 (n, 3, 32, 32); offsets: int64 (2, n) in 0..8; mirrored: bool (n,). Returns uint8 (n, 3, 32, 32).
    """
    padded = F.pad(images, (PADDING,) * 4)
    width = padded.shape[-1]
    pixel = torch.arange(IMAGE_SIZE, device=images.device)
    rows = pixel + offsets[0, :, None]
    columns = torch.where(mirrored[:, None], pixel.flip(0), pixel) + offsets[1, :, None]
    index = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    return (
        padded.flatten(2)
        .gather(2, index[:, None, :].expand(-1, IMAGE_CHANNELS, -1))
        .view(-1, IMAGE_CHANNELS, IMAGE_SIZE, IMAGE_SIZE)
    )


class TrainingData:
    """A job's training and evaluation images on a device; of several workers, the share of the one of this `rank`.

    Images stay uint8 and are read where they lie: on the CPU in the dataset's own arrays, which may be read-only; on a
    GPU in one copy that later trainings on the same dataset share. Raises `DatasetError` if the dataset is not the
    one the spec names.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        dataset: ImageDataset,
        *,
        device: torch.device | str = "cpu",
        rank: int = 0,
        num_workers: int = 1,
    ) -> None:
        expected, found = DATASET_SIZES[spec.dataset.name], (len(dataset.train_images), len(dataset.test_images))
        if dataset.name != spec.dataset.name or found != expected:
            raise DatasetError(
                f"the training is on {spec.dataset.name} ({expected[0]} + {expected[1]} images), but the dataset given "
                f"is {dataset.name} ({found[0]} + {found[1]} images): give the one the spec names"
            )
        self.spec = spec
        self.device = torch.device(device)
        self._rank, self._num_workers = rank, num_workers
        tensors = _on_device(dataset, self.device)
        parts = split(
            dataset,
            train_limit=spec.dataset.train_limit,
            test_limit=spec.dataset.test_limit,
            holdout=spec.dataset.holdout,
        )
        self._train_images, self._train_labels = tensors[:2]
        self._eval_images, self._eval_labels = tensors[:2] if parts.held_out else tensors[2:]
        self._train_index = torch.from_numpy(parts.train)
        self._eval_index = torch.from_numpy(parts.eval).to(self.device)
        mean, deviation = (
            SYMMETRIC_STATISTICS
            if spec.dataset.standardization == "symmetric"
            else CHANNEL_STATISTICS[spec.dataset.name]
        )
        self._scale = torch.tensor([1 / (255 * d) for d in deviation], device=self.device).view(-1, 1, 1)
        self._shift = torch.tensor([-m / d for m, d in zip(mean, deviation, strict=True)], device=self.device)
        self._shift = self._shift.view(-1, 1, 1)

    @property
    def num_eval(self) -> int:
        """Images evaluated on."""
        return len(self._eval_index)

    def epoch_batches(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` (from 1) from its step `first_step` on: float32 (b, 3, 32, 32), int64 (b,).

        Of n workers that of rank r takes the r-th of the n batches that make up a step: together they see the images
        that one worker with batches of n·b would, cropped and mirrored alike.
        """
        batch_size, steps = self.spec.batch_size, self.spec.steps_per_epoch
        plan = self._share(plan_epoch(self.spec, epoch))
        index = self._train_index[plan.order].to(self.device)
        offsets = None if plan.offsets is None else plan.offsets.to(self.device)
        mirrored = None if plan.mirrored is None else plan.mirrored.to(self.device)
        most = max(1, CHUNK_IMAGES // batch_size)
        step, count = first_step, 1
        while step < steps:
            part = slice(step * batch_size, min(step + count, steps) * batch_size)
            images = self._train_images[index[part]]
            if offsets is not None and mirrored is not None:
                images = crop_and_mirror(images, offsets[:, part], mirrored[part])
            labels = self._train_labels[index[part]]
            yield from zip(
                torch.split(self._standardize(images), batch_size), torch.split(labels, batch_size), strict=True
            )
            # Growing chunks: the first step need not wait for a whole one.
            step, count = step + count, min(2 * count, most)

    def eval_batches(self) -> Iterator[Batch]:
        """The images evaluated on, as they are, in batches of 250, which workers take in turn.

        Every worker has as many batches; the last one may be empty.
        """
        batches = torch.split(self._eval_index, EVAL_BATCH_SIZE)
        nothing = self._eval_index[:0]
        for first in range(0, len(batches), self._num_workers):
            number = first + self._rank
            index = batches[number] if number < len(batches) else nothing
            yield self._standardize(self._eval_images[index]), self._eval_labels[index]

    def _share(self, plan: EpochPlan) -> EpochPlan:
        """The part of an epoch that this worker trains on."""
        if self._num_workers == 1:
            return plan
        shape = (self.spec.steps_per_epoch, self._num_workers, self.spec.batch_size)
        positions = torch.arange(math.prod(shape)).view(shape)[:, self._rank].flatten()
        return EpochPlan(
            plan.order[positions],
            None if plan.offsets is None else plan.offsets[:, positions],
            None if plan.mirrored is None else plan.mirrored[positions],
        )

    def _standardize(self, images: Tensor) -> Tensor:
        # In this order: scaling channels that lie last takes twice as long as all of this.
        return images.float().mul_(self._scale).add_(self._shift).contiguous(memory_format=MEMORY_FORMAT)


_resident: "weakref.WeakKeyDictionary[ImageDataset, dict[torch.device, tuple[Tensor, ...]]]"
_resident = weakref.WeakKeyDictionary()


def _on_device(dataset: ImageDataset, device: torch.device) -> tuple[Tensor, ...]:
    """Train images and labels, test images and labels."""
    copies = _resident.setdefault(dataset, {})
    if device not in copies:
        arrays = (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels)
        tensors = tuple(_view(array) for array in arrays)
        if device.type == "cpu":
            return tensors
        copies[device] = tuple(tensor.to(device) for tensor in tensors)
    return copies[device]


class _Described:
    """What numpy needs to see the memory of `array` as writable; keeps the array alive."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}


def _view(array: NDArray[Any]) -> Tensor:
    """A tensor over the memory of `array`. torch knows no read-only tensors and warns of read-only arrays."""
    return torch.from_numpy(np.asarray(_Described(array)))
