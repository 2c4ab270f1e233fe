"""Batch normalization over all workers of a job."""

from typing import Literal

from pydantic import Field

from worker.normalizations.normalization import NormalizationSpec


class SyncBatchNormalization(NormalizationSpec):
    """Batch normalization by statistics over all workers of the job; with one worker, equal to `batch`."""

    reference = "Ioffe & Szegedy 2015, arXiv 1502.03167"
    needs = "Needs at least 2 images per step; every layer of every step waits for all workers."
    over_the_batch = True

    type: Literal["sync_batch"] = "sync_batch"
    eps: float = Field(default=1e-5, gt=0, le=1, description="added to the variance")
    momentum: float = Field(default=0.1, gt=0, le=1, description="weight of a new batch in the running averages")
    affine: bool = Field(default=True, description="learn a scale and a shift per channel")

    def images_together(self, batch_size: int, num_workers: int) -> int | None:
        """Return the number of images of a step of all workers."""
        return batch_size * num_workers
