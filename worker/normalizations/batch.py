"""Batch normalization (Ioffe & Szegedy 2015), also of ghost batches (Hoffer et al. 2017)."""

from typing import Literal

from pydantic import Field

from worker.normalizations.normalization import NormalizationSpec


class BatchNormalization(NormalizationSpec):
    """Normalizes a channel by its statistics over the batch, in evaluation by running averages (Ioffe & Szegedy 2015).

    With `ghost_batch_size`, the statistics are over parts of the batch (Hoffer et al. 2017).
    """

    reference = "Ioffe & Szegedy 2015, arXiv 1502.03167; Hoffer et al. 2017, arXiv 1705.08741, section 4"
    needs = "Needs at least 2 images per worker, and many more for precise statistics."
    over_the_batch = True

    type: Literal["batch"] = "batch"
    eps: float = Field(default=1e-5, gt=0, le=1, description="added to the variance")
    momentum: float = Field(default=0.1, gt=0, le=1, description="weight of a new batch in the running averages")
    affine: bool = Field(default=True, description="learn a scale and a shift per channel")
    ghost_batch_size: int | None = Field(
        default=None, ge=2, description="images normalized together in training; null: the whole batch"
    )

    def images_together(self, batch_size: int, num_workers: int) -> int | None:
        """Return the size of a ghost batch, or of the batch if that is smaller."""
        return min(batch_size, self.ghost_batch_size or batch_size)
