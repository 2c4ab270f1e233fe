"""The launches of a call: which kernels, with which arguments. Nothing here needs a GPU."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gn import layout
from gn.call import Call, Gradients, Result
from gn.cuda import backward, forward
from gn.cuda.tiling import Shape, Tiling

__all__ = ["Launch", "backward_launches", "forward_launches"]

# The tile of `finish`: rows of 128 bytes.
_FINISH = {"BR": 128, "BC": 32, "num_warps": 4}


# The compiler fuses no multiplications and additions, so that a value has the same bits forward and backward, and with
# every version of Triton. Where a fused multiply-add is wanted, the kernels call it.
_OPTIONS = {"enable_fp_fusion": False}


class Launch(NamedTuple):
    """A kernel, the number of programs, and their arguments.

    The arguments that a kernel names in capitals are compiled into it; the number of samples is none of them.
    """

    kernel: Any
    programs: int
    arguments: tuple[Any, ...]
    constants: dict[str, Any]

    def run(self) -> None:
        """Launch the kernel on the current device."""
        self.kernel[(self.programs,)](*self.arguments, **self.constants, **_OPTIONS)

    def compile(self) -> Any:
        """Compile the kernel, without launching it; return Triton's object."""
        return self.kernel.run(*self.arguments, grid=(self.programs,), warmup=True, **self.constants, **_OPTIONS)


def forward_launches(call: Call, shape: Shape, tiling: Tiling) -> tuple[Result, list[Launch]]:
    """Return the output and the statistics, yet to be written, and the launches that write them, in order."""
    x, num_groups, weight, bias, eps, residual, activation = _in_layout_of_x(call)
    y = torch.empty_like(x)
    statistics = x.new_empty((3, shape.samples, num_groups), dtype=torch.float32)
    constants = shape.constants(tiling) | {"num_warps": tiling.warps}
    named = activation or "none"
    programs = shape.samples * shape.column_blocks(tiling) * tiling.chunks
    if tiling.chunks == 1:
        arguments = (x, weight, bias, residual, y, statistics, eps, shape.samples)
        return (y, statistics), [Launch(forward.forward, programs, arguments, constants | {"ACTIVATION": named})]
    constants["CHUNKS"] = tiling.chunks
    partial = x.new_empty((shape.samples, tiling.chunks, 3, num_groups), dtype=torch.float32)
    return (y, statistics), [
        Launch(forward.moments, programs, (x, partial), constants),
        Launch(
            forward.apply,
            programs,
            (x, weight, bias, residual, y, partial, statistics, eps, shape.samples),
            constants | {"BR": tiling.chunk_rows, "ACTIVATION": named},
        ),
    ]


def backward_launches(
    call: Call,
    shape: Shape,
    tiling: Tiling,
    dy: Tensor,
    skip_dy: Tensor | None,
    statistics: Tensor,
    needs_dx: bool,
    processors: int,
) -> tuple[Gradients, list[Launch]]:
    """Return the gradients, yet to be written, and the launches that write them, in order.

    Args:
        call: As of `gn.backends.Backend.backward`, as are `dy`, `skip_dy`, `statistics` and `needs_dx`.
        shape: The shape of the call.
        tiling: Its tiles.
        dy: (N, C, *).
        skip_dy: (N, C, *), or None.
        statistics: (3, N, G).
        needs_dx: Whether to compute the gradient of `x`.
        processors: The number of multiprocessors of the GPU.
    """
    x, _, weight, bias, _, residual, activation = _in_layout_of_x(call)
    dy = layout.like(dy, x)
    skip_dy = None if skip_dy is None else layout.like(skip_dy, x)
    dx = torch.empty_like(x) if needs_dx else None
    dresidual = None if residual is None else torch.empty_like(x)
    dweight, dbias = x.new_empty((2, shape.channels), dtype=call.parameter_dtype())
    constants = shape.constants(tiling) | {"num_warps": tiling.warps, "ACTIVATION": activation or "none"}
    columns = shape.column_blocks(tiling)
    if tiling.chunks == 1:
        samples = shape.samples_per_program(tiling, processors)
        rows = -(-shape.samples // samples)
    else:
        samples, rows = 1, shape.samples * tiling.chunks
        constants["CHUNKS"] = tiling.chunks
    # A single program per channel writes the gradients themselves.
    partial = (dweight, dbias) if rows == 1 else x.new_empty((2, rows, shape.channels), dtype=torch.float32).unbind()
    given = (dy, skip_dy, x, weight, bias, residual, statistics)
    if tiling.chunks == 1:
        constants["SEVERAL"] = tiling.holds_several_samples
        arguments = (*given, dx, *partial, dresidual, shape.samples, samples)
        launches = [Launch(backward.backward, rows * columns, arguments, constants)]
    else:
        arguments = (*given, *partial, dresidual, shape.samples)
        launches = [Launch(backward.sums, rows * columns, arguments, constants)]
        if dx is not None:
            constants = constants | {"BR": tiling.chunk_rows}
            arguments = (*given, *partial, dx, shape.samples)
            launches.append(Launch(backward.project, rows * columns, arguments, constants))
    if rows > 1:
        arguments = (*partial, dweight, dbias, rows)
        programs = -(-shape.channels // _FINISH["BC"])
        launches.append(Launch(backward.finish, programs, arguments, {"C": shape.channels, **_FINISH}))
    empty = x.new_empty(0)
    gradients = (empty if dx is None else dx, dweight, dbias, empty if dresidual is None else dresidual)
    return gradients, launches


def _in_layout_of_x(call: Call) -> Call:
    """The call with contiguous parameters, and its residual in the layout of `x`."""
    x, _, weight, bias, _, residual, _ = call
    return call._replace(
        weight=None if weight is None else weight.contiguous(),
        bias=None if bias is None else bias.contiguous(),
        residual=None if residual is None else layout.like(residual, x),
    )
