"""The CUDA backend: prepares the arguments of the Triton kernels, allocates their results, and launches them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
import triton
from torch import Tensor

from gn import layout
from gn.call import Call, Gradients, Result
from gn.cuda import fused, split

__all__ = ["backward", "forward"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

# The largest tiles, in elements, that stay in the registers of a program.
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
    def of(cls, call: Call) -> "_Shape":
        x = call.x
        samples, channels = x.shape[:2]
        return cls(samples, channels, call.num_groups, x.numel() // (samples * channels), not x.is_contiguous())

    @property
    def group_channels(self) -> int:
        return self.channels // self.groups

    @property
    def strides(self) -> tuple[int, int]:
        """The strides of channel and position, in elements."""
        return (1, self.channels) if self.channels_innermost else (self.positions, 1)

    def fused_tile(self, most: int) -> tuple[int, int, int] | None:
        """Groups, channels of a group and positions of a program; None if one group exceeds `most` elements."""
        channels, positions = map(triton.next_power_of_2, (self.group_channels, self.positions))
        if channels * positions > most:
            return None
        groups = max(1, min(triton.next_power_of_2(self.groups), _FUSED_TILE // (channels * positions)))
        if self.channels_innermost:
            # A row of memory shorter than 64 bytes wastes the rest of its sectors.
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


def _on_its_device(launch: Callable[Concatenate[Call, _P], _R]) -> Callable[Concatenate[Call, _P], _R]:
    """Triton launches on the current device, which may be another than that of the tensors."""

    @wraps(launch)
    def run(call: Call, /, *arguments: _P.args, **options: _P.kwargs) -> _R:
        with torch.cuda.device(call.x.get_device()):
            return launch(call, *arguments, **options)

    return run


@_on_its_device
def forward(call: Call) -> Result:
    """Compute the output and the statistics; see `gn.backends.Backend.forward`."""
    x, num_groups, weight, bias, eps, residual, activation = _with_native_layouts(call)
    shape = _Shape.of(call)
    y = torch.empty_like(x)
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
def backward(call: Call, dy: Tensor, statistics: Tensor, needs_dx: bool) -> Gradients:
    """Compute the gradients; see `gn.backends.Backend.backward`."""
    call = _with_native_layouts(call)
    x = call.x
    shape = _Shape.of(call)
    dx = torch.empty_like(x) if needs_dx else None
    dresidual = None if call.residual is None else torch.empty_like(x)
    run = _backward_split if shape.fused_tile(_LARGEST_FUSED["backward"]) is None else _backward_fused
    dweight, dbias = run(shape, call, layout.like(dy, x), statistics, dx, dresidual)
    dtype = call.parameter_dtype()
    empty = x.new_empty(0)
    return (
        empty if dx is None else dx,
        dweight.to(dtype),
        dbias.to(dtype),
        empty if dresidual is None else dresidual,
    )


def _backward_fused(
    shape: _Shape, call: Call, dy: Tensor, statistics: Tensor, dx: Tensor | None, dresidual: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Launch one program for some groups of some samples; return the gradients of weight and bias in float32."""
    x, _, weight, bias, _, residual, activation = call
    tile = shape.fused_tile(_LARGEST_FUSED["backward"])
    assert tile is not None
    groups, channels, positions = tile
    columns = triton.cdiv(shape.groups, groups)
    # A program takes several samples if every multiprocessor still gets enough programs.
    spare = shape.samples * columns // (_PROGRAMS_PER_PROCESSOR * _processors(x))
    samples = min(triton.next_power_of_2(max(1, spare)), 32)
    blocks = triton.cdiv(shape.samples, samples)
    dweight, dbias = x.new_empty((2, blocks, shape.channels), dtype=torch.float32)
    fused.backward[(blocks, columns)](
        dy, x, weight, bias, residual, statistics, dx, dweight, dbias, dresidual,
        shape.samples, shape.groups, shape.group_channels, shape.positions, *shape.strides,
        ACTIVATION=activation or "none", SAMPLES=samples, BG=groups, BD=channels, BP=positions,
        num_warps=_warps(groups * channels * positions),
    )  # fmt: skip
    return dweight.sum(0), dbias.sum(0)


def _backward_split(
    shape: _Shape, call: Call, dy: Tensor, statistics: Tensor, dx: Tensor | None, dresidual: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Launch programs that reduce, then programs that apply; return the gradients of weight and bias in float32."""
    x, _, weight, bias, _, residual, activation = call
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
        ACTIVATION=activation or "none",
        **options,
    )
    sums = torch.stack((dz.sum(1), dz_normalized.sum(1)))
    if dx is not None:
        weighted = sums if weight is None else sums * weight.float()
        count = shape.group_channels * shape.positions
        means = weighted.reshape(2, shape.samples, shape.groups, -1).sum(3) / count
        if dresidual is not None:
            # dresidual is dz, the gradient of the input of the activation.
            dy, activation = dresidual, None
        split.project[grid](
            dy, x, weight, bias, statistics, means, dx, *sizes, ACTIVATION=activation or "none", **options
        )
    dbias, dweight = sums.sum(1)
    return dweight, dbias


def _statistics(x: Tensor, shape: _Shape, eps: float) -> Tensor:
    """The statistics, (3, N, G), combined from the moments of tiles (Chan, Golub and LeVeque, 1979)."""
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
    # As in `fused.forward`.
    rstd = (variance + eps).rsqrt().float().masked_fill(variance.float().isinf(), torch.nan)
    return torch.stack((hi, (total - hi).float(), rstd))


def _split_sizes(shape: _Shape) -> tuple[int, ...]:
    groups = shape.samples * shape.groups
    return shape.channels, shape.positions, *shape.strides, groups, shape.groups, shape.group_channels


def _with_native_layouts(call: Call) -> Call:
    """The call with contiguous parameters, and its residual in the layout of `x`."""
    x, _, weight, bias, _, residual, _ = call
    return call._replace(
        weight=None if weight is None else weight.contiguous(),
        bias=None if bias is None else bias.contiguous(),
        residual=None if residual is None else layout.like(residual, x),
    )


def _warps(elements: int) -> int:
    return max(1, min(16, elements // 512))


def _processors(x: Tensor) -> int:
    return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1
