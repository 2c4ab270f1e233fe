"""Batches of images on a device, with the shuffling and augmentation of each epoch.

The random numbers of a whole epoch are drawn on the CPU from (seed, epoch). An image is therefore cropped the same way
at every batch size and on every device, and a resumed training enters the middle of an epoch without replaying its
beginning.
"""

import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from worker.architecture import IMAGE_CHANNELS, IMAGE_SIZE
from worker.data.datasets import DatasetError, ImageDataset, split
from worker.metrics import EvaluatedSplit, SplitName
from worker.numerics.precision import MEMORY_FORMAT
from worker.numerics.seeding import generator
from worker.spec import DATASET_SIZES, TrainingSpec

PADDING = 4

CHANNEL_STATISTICS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "cifar10": ((0.49139968, 0.48215841, 0.44653091), (0.24703223, 0.24348513, 0.26158784)),
    "synthetic": ((0.48391343, 0.52248308, 0.52875722), (0.25054405, 0.25134525, 0.25105026)),
}
"""Mean and standard deviation of each channel over all training images, for pixels in [0, 1]."""

SYMMETRIC_STATISTICS = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

# Small batches are prepared together, so that a few tensor operations serve many steps.
CHUNK_IMAGES = 512
EVAL_BATCH_SIZE = 250

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class EpochPlan:
    """The order of the n training images in one epoch, and the crop and mirroring of each.

    Attributes:
        order: int64 (n,), positions in the list of training images.
        offsets: int64 (2, n), row and column from 0 to 8 at which the padded image is cropped; None: no augmentation.
        mirrored: bool (n,), whether the image is mirrored; None: no augmentation.
    """

    order: Tensor
    offsets: Tensor | None
    mirrored: Tensor | None


def plan_epoch(spec: TrainingSpec, epoch: int) -> EpochPlan:
    """Return the plan of `epoch` (from 1), a function of the seed, the epoch and the number of images."""
    count = spec.dataset.num_train
    order = torch.randperm(count, generator=generator(spec.seed, "order", epoch))
    if spec.augmentation == "none":
        return EpochPlan(order, None, None)
    # Drawn per image, not per position, so that they do not depend on the order.
    crops = generator(spec.seed, "augmentation", epoch)
    offsets = torch.randint(2 * PADDING + 1, (2, count), generator=crops)
    mirrored = torch.randint(2, (count,), generator=crops, dtype=torch.bool)
    return EpochPlan(order, offsets[:, order], mirrored[order])


def crop_and_mirror(images: Tensor, offsets: Tensor, mirrored: Tensor) -> Tensor:
    """Pad each image with 4 black pixels, crop it to 32×32 at its offset, and mirror it if `mirrored` is true.

    Args:
        images: uint8 (n, 3, 32, 32).
        offsets: int64 (2, n), row and column of each crop, 0 to 8.
        mirrored: bool (n,).

    Returns:
        uint8 (n, 3, 32, 32).
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
    """The training and evaluation images of a job on a device; with several workers, the shard of one rank.

    Images stay in uint8 and are not copied on the CPU, where the arrays of the dataset may be read-only. On a GPU there
    is one copy, which later trainings on the same dataset reuse.

    Args:
        spec: The job.
        dataset: The dataset that the spec names.
        device: Device of the batches.
        rank: Rank of this worker.
        num_workers: Number of workers of the job.

    Raises:
        DatasetError: If `dataset` is not the one that the spec names.
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
                f"the spec names {spec.dataset.name} ({expected[0]} + {expected[1]} images), but the dataset given is "
                f"{dataset.name} ({found[0]} + {found[1]} images): give the dataset that the spec names"
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
        self._parts: dict[SplitName, tuple[Tensor, Tensor, Tensor]] = {
            "train": (tensors[0], tensors[1], torch.from_numpy(parts.train)),
            "holdout": (tensors[0], tensors[1], torch.from_numpy(parts.holdout).to(self.device)),
            "test": (tensors[2], tensors[3], torch.from_numpy(parts.test).to(self.device)),
        }
        mean, deviation = (
            SYMMETRIC_STATISTICS
            if spec.dataset.standardization == "symmetric"
            else CHANNEL_STATISTICS[spec.dataset.name]
        )
        self._scale = torch.tensor([1 / (255 * d) for d in deviation], device=self.device).view(-1, 1, 1)
        self._shift = torch.tensor([-m / d for m, d in zip(mean, deviation, strict=True)], device=self.device)
        self._shift = self._shift.view(-1, 1, 1)

    @property
    def splits(self) -> tuple[EvaluatedSplit, ...]:
        """The images that every epoch is evaluated on: the holdout if there is one, then the test images."""
        return tuple(split for split in get_args(EvaluatedSplit) if len(self._parts[split][2]))

    def num_images(self, split: EvaluatedSplit) -> int:
        """Return the number of images of a split."""
        return len(self._parts[split][2])

    def epoch_batches(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the training batches of an epoch.

        With n workers, rank r takes the r-th of the n batches that make up a step. Together the workers see the images
        that a single worker with batches of n·b would see, with the same crops and mirroring.

        Args:
            epoch: Number of the epoch, from 1.
            first_step: Number of steps to skip at its beginning.

        Yields:
            Images, float32 (b, 3, 32, 32), and labels, int64 (b,).
        """
        batch_size, steps = self.spec.batch_size, self.spec.steps_per_epoch
        plan = self._shard(plan_epoch(self.spec, epoch))
        all_images, all_labels, selected = self._parts["train"]
        index = selected[plan.order].to(self.device)
        offsets = None if plan.offsets is None else plan.offsets.to(self.device)
        mirrored = None if plan.mirrored is None else plan.mirrored.to(self.device)
        max_count = max(1, CHUNK_IMAGES // batch_size)
        step, count = first_step, 1
        while step < steps:
            part = slice(step * batch_size, min(step + count, steps) * batch_size)
            images = all_images[index[part]]
            if offsets is not None and mirrored is not None:
                images = crop_and_mirror(images, offsets[:, part], mirrored[part])
            labels = all_labels[index[part]]
            yield from zip(
                torch.split(self._standardize(images), batch_size), torch.split(labels, batch_size), strict=True
            )
            # Chunks grow, so that the first step does not wait for a full one.
            step, count = step + count, min(2 * count, max_count)

    def eval_batches(self, split: EvaluatedSplit = "test") -> Iterator[Batch]:
        """Yield the images of a split without augmentation, in batches of 250 that the ranks take in turn.

        Every rank gets equally many batches; its last batch may be empty.

        Args:
            split: One of `splits`.

        Yields:
            Images, float32 (b, 3, 32, 32), and labels, int64 (b,).
        """
        images, labels, positions = self._parts[split]
        batches = torch.split(positions, EVAL_BATCH_SIZE)
        empty = positions[:0]
        for first in range(0, len(batches), self._num_workers):
            number = first + self._rank
            index = batches[number] if number < len(batches) else empty
            yield self._standardize(images[index]), labels[index]

    def plain_batches(self, part: SplitName, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the images of a split without augmentation, in the order of the dataset; the last batch may be smaller.

        Args:
            part: "train": the images of the training; "test", "holdout".
            batch_size: Images per batch.

        Yields:
            Images, float32 (b, 3, 32, 32), labels, int64 (b,), and positions in the dataset, int64 (b,).

        Raises:
            ValueError: If the split is the holdout, and the spec has none.
        """
        images, labels, index = self._parts[part]
        if not len(index):
            raise ValueError(f"the split is {part}, but the training holds out no images: give test or train")
        for positions in torch.split(index.to(self.device), batch_size):
            yield self._standardize(images[positions]), labels[positions], positions

    def pixels(self, part: SplitName, position: int) -> Tensor:
        """Return an image of the dataset as it is, uint8 (3, 32, 32)."""
        return self._parts[part][0][position]

    def _shard(self, plan: EpochPlan) -> EpochPlan:
        """Return the part of an epoch that this worker trains on."""
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
        # Conversion to channels-last comes last: scaling channels-last images takes twice as long as all of this.
        return images.float().mul_(self._scale).add_(self._shift).contiguous(memory_format=MEMORY_FORMAT)


_resident: "weakref.WeakKeyDictionary[ImageDataset, dict[torch.device, tuple[Tensor, ...]]]"
_resident = weakref.WeakKeyDictionary()


def _on_device(dataset: ImageDataset, device: torch.device) -> tuple[Tensor, ...]:
    """Return train images, train labels, test images and test labels as tensors on `device`."""
    copies = _resident.setdefault(dataset, {})
    if device not in copies:
        arrays = (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels)
        tensors = tuple(_view(array) for array in arrays)
        if device.type == "cpu":
            return tensors
        copies[device] = tuple(tensor.to(device) for tensor in tensors)
    return copies[device]


class _WritableView:
    """Describes the memory of `array` to numpy as writable, and keeps the array alive."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}


def _view(array: NDArray[Any]) -> Tensor:
    """Return a tensor over the memory of `array`. torch warns of read-only arrays, as it has no read-only tensors."""
    return torch.from_numpy(np.asarray(_WritableView(array)))
