"""Online normalization (Chiley et al. 2019)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from worker.normalizations.normalization import Constant, NormalizationSpec, Place

if TYPE_CHECKING:
    from torch import Tensor

    from worker.normalizations.layers import FormulaLayer


class OnlineNormalization(NormalizationSpec):
    """Normalizes an image by running averages over all images before it, one after the other (Chiley et al. 2019).

    The backward pass is not the derivative: two more running sums remove from the gradient what is not orthogonal to
    the output and to 1, as batch normalization does. The layer scaling, which divides an image by its root mean square,
    comes before the learned scale and shift, so that a residual branch can start at 0; in the code of the authors it
    comes after them.
    """

    reference = "Chiley et al. 2019, arXiv 1905.05894"
    needs = "Needs some 1 / (1 - `alpha_forward`) images until its averages hold; the order of images matters."
    over_the_batch = True
    not_distributed = "it normalizes by the running averages of a worker"

    type: Literal["online"] = "online"
    eps: float = Field(default=1e-5, gt=0, le=1, description="added to the variance and to the mean square")
    alpha_forward: float = Field(default=0.999, gt=0, lt=1, description="share of the averages that an image keeps")
    alpha_backward: float = Field(default=0.99, gt=0, lt=1, description="the same in the backward pass")
    affine: bool = Field(default=True, description="learn a scale and a shift per channel")

    def images_together(self, batch_size: int, num_workers: int) -> int | None:
        """Return the number of images that a running average spans."""
        return round(1 / (1 - self.alpha_forward))

    def kept_per_step(self, batch_size: int) -> float | None:
        """Return the share of the averages that the images of a step keep."""
        return float(self.alpha_forward**batch_size)

    def buffers(self, place: Place) -> Mapping[str, Constant]:
        """Return the running mean and variance, and the running sums `u` and `v` of the backward pass."""
        return {
            "running_mean": Constant.per_channel(0.0, place.num_channels),
            "running_var": Constant.per_channel(1.0, place.num_channels),
            "u": Constant.per_channel(0.0, place.num_channels),
            "v": Constant.per_channel(0.0, place.num_channels),
        }

    def normalize(self, x: "Tensor", layer: "FormulaLayer") -> "Tensor":
        """Return `x`, normalized by the averages of the images before each image, and scaled."""
        mean, variance = layer.running_mean, layer.running_var
        if layer.training:
            mean, variance = self._averages(x.detach(), layer)
            if x.requires_grad:
                x = x.view_as(x)
                x.register_hook(lambda gradient: self._without_mean(gradient, layer))  # type: ignore[no-untyped-call]
        y = (x - mean) * (variance + self.eps).rsqrt()
        if layer.training and y.requires_grad:
            normalized = y.detach()
            y.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: self._without_output(gradient, normalized, layer)
            )
        return y * (y.square().mean((1, 2, 3), keepdim=True) + self.eps).rsqrt()

    def _averages(self, x: "Tensor", layer: "FormulaLayer") -> "tuple[Tensor, Tensor]":
        """Return the mean and the variance before each image, (N, C, 1, 1), and update those of the layer."""
        kept = self.alpha_forward
        means, variances = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
        before = x.new_empty(2, *means.shape)
        mean, variance = layer.running_mean.clone(), layer.running_var.clone()
        for image, (of_image, spread) in enumerate(zip(means, variances, strict=True)):
            before[0, image], before[1, image] = mean, variance
            distance = of_image - mean
            variance = kept * variance + (1 - kept) * spread + kept * (1 - kept) * distance.square()
            mean = mean + (1 - kept) * distance
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)
        return before[0], before[1]

    def _without_output(self, gradient: "Tensor", y: "Tensor", layer: "FormulaLayer") -> "Tensor":
        """Return the gradient of `y` without its part along `y`; adds to the running sum `v`."""
        along, square = (gradient * y).mean((2, 3), keepdim=True), y.square().mean((2, 3), keepdim=True)
        sums = gradient.new_empty(along.shape)
        v = layer.v.clone()
        for image in range(len(gradient)):
            sums[image] = v
            v = v + along[image] - (1 - self.alpha_backward) * v * square[image]
        layer.v.copy_(v)
        return gradient - (1 - self.alpha_backward) * sums * y

    def _without_mean(self, gradient: "Tensor", layer: "FormulaLayer") -> "Tensor":
        """Return the gradient of `x` without its mean; adds to the running sum `u`."""
        means = gradient.mean((2, 3), keepdim=True)
        sums = gradient.new_empty(means.shape)
        u = layer.u.clone()
        for image in range(len(gradient)):
            sums[image] = u
            u = self.alpha_backward * u + means[image]
        layer.u.copy_(u)
        return gradient - (1 - self.alpha_backward) * sums
