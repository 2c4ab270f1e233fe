"""Launches the kernels: lays out what they read, allocates what they write, cuts the work into tiles."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
import triton
from torch import Tensor

from gn import layout
from gn.cuda import fused, split

__all__ = ["backward", "forward"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

# The elements of a tile: as many as stay in the registers of a program.
_LARGEST_FUSED = {"forward": 1 << 15, "backward": 1 << 14}
_FUSED_TILE = 1 << 12
_SPLIT_TILE = 1 << 12
_PROGRAMS_PER_PROCESSOR = 8


@dataclass(frozen=True)
class _Shape:
    samples: int
    channels: int
    groups: int
    positions: int
    channels_innermost: bool

    @classmethod
    def of(cls, x: Tensor, num_groups: int) -> "_Shape":
        samples, channels = x.shape[:2]
        return cls(samples, channels, num_groups, x.numel() // (samples * channels), not x.is_contiguous())

    @property
    def group_channels(self) -> int:
        return self.channels // self.groups

    @property
    def strides(self) -> tuple[int, int]:
        """Of channel and position."""
        return (1, self.channels) if self.channels_innermost else (self.positions, 1)

    def fused_tile(self, most: int) -> tuple[int, int, int] | None:
        """Groups, channels of a group and positions of a program, or None where one group is too large."""
        channels, positions = map(triton.next_power_of_2, (self.group_channels, self.positions))
        if channels * positions > most:
            return None
        groups = max(1, min(triton.next_power_of_2(self.groups), _FUSED_TILE // (channels * positions)))
        if self.channels_innermost:
            # A row of memory that is shorter than 64 bytes wastes the rest of its sectors.
            groups = max(
                groups, min(triton.next_power_of_2(self.groups), 32 // channels, most // (channels * positions))
            )
        return groups, channels, positions

    def split_tile(self) -> tuple[int, int]:
        """Channels and positions of a program."""
        if self.channels_innermost:
            channels = min(triton.next_power_of_2(self.channels), 64)
            return channels, max(1, min(triton.next_power_of_2(self.positions), _SPLIT_TILE // channels))
        positions = min(triton.next_power_of_2(self.positions), _SPLIT_TILE)
        return max(1, min(triton.next_power_of_2(self.channels), _SPLIT_TILE // positions)), positions

    def split_launch(self) -> tuple[tuple[int, int, int], dict[str, Any]]:
        channels, positions = self.split_tile()
        grid = (self.samples, triton.cdiv(self.channels, channels), triton.cdiv(self.positions, positions))
        wide = self.channels * self.positions >= 2**31
        return grid, {"WIDE": wide, "BC": channels, "BP": positions, "num_warps": _warps(channels * positions)}


def _on_its_device(launch: Callable[_P, _R]) -> Callable[_P, _R]:
    """Triton launches on the current device, which need not be that of the first tensor."""

    @wraps(launch)
    def run(*arguments: _P.args, **options: _P.kwargs) -> _R:
        x = arguments[0]
        assert isinstance(x, Tensor)
        with torch.cuda.device(x.get_device()):
            return launch(*arguments, **options)

    return run


@_on_its_device
def forward(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    activation: str | None,
) -> tuple[Tensor, Tensor]:
    """See `gn.reference.group_norm`. `x`, (N, C, *), is dense, with the positions or the channels innermost."""
    shape = _Shape.of(x, num_groups)
    y = torch.empty_like(x)
    residual = None if residual is None else layout.like(residual, x)
    weight, bias = _contiguous(weight), _contiguous(bias)
    if (tile := shape.fused_tile(_LARGEST_FUSED["forward"])) is None:
        statistics = _statistics(x, shape, eps)
        grid, options = shape.split_launch()
        sizes = _split_sizes(shape)
        split.apply[grid](x, weight, bias, residual, y, statistics, *sizes, ACTIVATION=activation or "none", **options)
        return y, statistics
    statistics = x.new_empty((3, shape.samples, num_groups), dtype=torch.float32)
    groups, channels, positions = tile
    fused.forward[(shape.samples, triton.cdiv(num_groups, groups))](
        x, weight, bias, residual, y, statistics, eps,
        shape.samples, num_groups, shape.group_channels, shape.positions, *shape.strides,
        ACTIVATION=activation or "none", BG=groups, BD=channels, BP=positions,
        num_warps=_warps(groups * channels * positions),
    )  # fmt: skip
    return y, statistics


@_on_its_device
def backward(
    dy: Tensor,
    x: Tensor,
    statistics: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str | None,
    needs_dx: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `gn.reference.group_norm_backward`."""
    shape = _Shape.of(x, num_groups)
    dy = layout.like(dy, x)
    dx = torch.empty_like(x) if needs_dx else None
    dresidual = None
    if residual is not None:
        residual, dresidual = layout.like(residual, x), torch.empty_like(x)
    weight, bias = _contiguous(weight), _contiguous(bias)
    run = _backward_split if shape.fused_tile(_LARGEST_FUSED["backward"]) is None else _backward_fused
    dweight, dbias = run(shape, dy, x, statistics, weight, bias, residual, activation or "none", dx, dresidual)
    dtype = layout.parameter_dtype(x, weight, bias)
    nothing = x.new_empty(0)
    return (
        nothing if dx is None else dx,
        dweight.to(dtype),
        dbias.to(dtype),
        nothing if dresidual is None else dresidual,
    )


def _backward_fused(
    shape: _Shape,
    dy: Tensor,
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    dx: Tensor | None,
    dresidual: Tensor | None,
) -> tuple[Tensor, Tensor]:
    tile = shape.fused_tile(_LARGEST_FUSED["backward"])
    assert tile is not None
    groups, channels, positions = tile
    columns = triton.cdiv(shape.groups, groups)
    # Several samples a program, as long as every processor has enough programs.
    spare = shape.samples * columns // (_PROGRAMS_PER_PROCESSOR * _processors(x))
    samples = min(triton.next_power_of_2(max(1, spare)), 32)
    blocks = triton.cdiv(shape.samples, samples)
    dweight, dbias = x.new_empty((2, blocks, shape.channels), dtype=torch.float32)
    fused.backward[(blocks, columns)](
        dy, x, weight, bias, residual, statistics, dx, dweight, dbias, dresidual,
        shape.samples, shape.groups, shape.group_channels, shape.positions, *shape.strides,
        ACTIVATION=activation, SAMPLES=samples, BG=groups, BD=channels, BP=positions,
        num_warps=_warps(groups * channels * positions),
    )  # fmt: skip
    return dweight.sum(0), dbias.sum(0)


def _backward_split(
    shape: _Shape,
    dy: Tensor,
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    dx: Tensor | None,
    dresidual: Tensor | None,
) -> tuple[Tensor, Tensor]:
    grid, options = shape.split_launch()
    sizes = _split_sizes(shape)
    dz, dz_normalized = x.new_empty((2, shape.samples, grid[2], shape.channels), dtype=torch.float32)
    split.gradient_sums[grid](
        dy,
        x,
        weight,
        bias,
        residual,
        statistics,
        dresidual,
        dz,
        dz_normalized,
        *sizes,
        ACTIVATION=activation,
        **options,
    )
    sums = torch.stack((dz.sum(1), dz_normalized.sum(1)))
    if dx is not None:
        weighted = sums if weight is None else sums * weight.float()
        count = shape.group_channels * shape.positions
        means = weighted.reshape(2, shape.samples, shape.groups, -1).sum(3) / count
        if dresidual is not None:
            # It is the gradient of what went into the activation.
            dy, activation = dresidual, "none"
        split.project[grid](dy, x, weight, bias, statistics, means, dx, *sizes, ACTIVATION=activation, **options)
    dbias, dweight = sums.sum(1)
    return dweight, dbias


def _statistics(x: Tensor, shape: _Shape, eps: float) -> Tensor:
    """Puts together the moments of tiles (Chan, Golub and LeVeque, 1979)."""
    grid, options = shape.split_launch()
    tiles = grid[2]
    mean, correction, square = x.new_empty((3, shape.samples, tiles, shape.channels), dtype=torch.float32)
    split.moments[grid](x, mean, correction, square, shape.channels, shape.positions, *shape.strides, **options)
    counts = torch.full((tiles,), options["BP"], dtype=torch.float64, device=x.device)
    counts[-1] = shape.positions - (tiles - 1) * options["BP"]
    size = (shape.samples, tiles, shape.groups, shape.group_channels)
    means = (mean.double() + correction.double()).reshape(size)
    weights = counts.reshape(1, -1, 1, 1)
    count = shape.group_channels * shape.positions
    total = (means * weights).sum((1, 3)) / count
    between = ((means - total[:, None, :, None]).square() * weights).sum((1, 3))
    variance = (square.reshape(size).double().sum((1, 3)) + between) / count
    hi = total.float()
    return torch.stack((hi, (total - hi).float(), (variance + eps).rsqrt().float()))


def _split_sizes(shape: _Shape) -> tuple[int, ...]:
    groups = shape.samples * shape.groups
    return shape.channels, shape.positions, *shape.strides, groups, shape.groups, shape.group_channels


def _contiguous(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.contiguous()


def _warps(elements: int) -> int:
    return max(1, min(16, elements // 512))


def _processors(x: Tensor) -> int:
    return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1
