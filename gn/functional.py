"""`group_norm` and `batch_norm`, the differentiable functions."""

from typing import Literal, overload

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from gn import backends, batch_operators, dispatch, operators, validation
from gn.batch_call import BatchCall
from gn.call import Call

__all__ = ["Activation", "batch_norm", "group_norm"]

Activation = Literal["relu", "silu", "gelu"]
"""The names of the activations; "gelu" is the exact GELU, computed with the error function."""


@overload
def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    activation: Activation | None = None,
    return_skip: Literal[False] = False,
) -> Tensor: ...


@overload
def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    activation: Activation | None = None,
    return_skip: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    activation: Activation | None = None,
    return_skip: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute `activation(group_norm(x) + residual)` in one operator, forward and backward.

    Group Normalization (Wu and He, 2018, arXiv:1803.08494) splits the channels of each sample into `num_groups` groups.
    It normalizes each group by the mean and the (biased) variance over its channels and all positions. One group is
    LayerNorm over (C, *); C groups are InstanceNorm.

    Statistics are computed in float32, in float64 for a float64 `x`.

    Args:
        x: (N, C, *), with any number of trailing dimensions, in bfloat16, float16, float32 or float64. The output has
            its memory format.
        num_groups: A divisor of C.
        weight: (C,), of the dtype of `x`; for a bfloat16 or float16 `x` also float32.
        bias: (C,), of the dtypes of `weight`; both have the same one.
        eps: Added to the variance.
        residual: (N, C, *), added before the activation, in the dtype of `x`.
        activation: None, "relu", "silu" or "gelu" (exact, by the error function).
        return_skip: Return the output twice, for a network that uses it in two places: as the input of the next layer
            and of a skip connection. Backward then adds the two gradients while it reads them; autograd would first
            write their sum to memory. The gradients are equal bit for bit. Neither output may be modified in place.

    Returns:
        (N, C, *), of the dtype of `x`; with `return_skip` a pair of that.

    Raises:
        ValueError: The activation is unknown, `residual` has another shape than `x`, or every group has a single value.
        TypeError: `num_groups` is no integer, `eps` no number, or `weight` or `bias` no tensor.
        NotImplementedError: The dtype of `x`, or the layout of a tensor, such as a sparse one, is not supported.
        RuntimeError: Another argument has a shape, dtype or device that `torch.nn.functional.group_norm` refuses as
            well; or the backend "kernels" is selected and has no kernel for the dtype and device of `x`.
        ZeroDivisionError: `num_groups` is zero.
    """
    if has_torch_function_variadic(x, weight, bias, residual):
        return handle_torch_function(
            group_norm,  # type: ignore[arg-type]  # because of its overloads
            (x, weight, bias, residual),
            x,
            num_groups,
            weight,
            bias,
            eps,
            residual=residual,
            activation=activation,
            return_skip=return_skip,
        )
    if type(num_groups) is not int or type(eps) is not float:
        num_groups, eps = validation.integer("num_groups", num_groups), validation.number("eps", eps)
    # The extension checks the arguments itself: at batch 2 everything below takes longer than the kernels.
    if outputs := backends.run_extension(x, num_groups, weight, bias, eps, residual, activation, return_skip):
        return (outputs[0], outputs[1]) if return_skip else outputs[0]
    if residual is not None and residual.is_sparse:
        residual = residual.to_dense()
    call = Call(x, num_groups, weight, bias, eps, residual, activation)
    if not dispatch.is_traced():  # else the operator checks: torch warns of comparisons of shapes
        validation.check(call)
    if residual is not None and residual.dtype != x.dtype:
        call = call._replace(residual=residual.to(x.dtype))
    y = operators.group_norm(call)
    return (y, y) if return_skip else y


@overload
def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    activation: Activation | None = None,
    ghost_batch_size: int | None = None,
    return_skip: Literal[False] = False,
) -> Tensor: ...


@overload
def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    activation: Activation | None = None,
    ghost_batch_size: int | None = None,
    return_skip: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    activation: Activation | None = None,
    ghost_batch_size: int | None = None,
    return_skip: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute `activation(batch_norm(x) + residual)` in one pass over the batch, forward and backward.

    Batch Normalization (Ioffe and Szegedy, 2015, arXiv:1502.03167) normalizes each channel by the mean and the (biased)
    variance over the batch and all positions, or in evaluation by running averages of them. The arguments up to `eps`
    are those of `torch.nn.functional.batch_norm`, with the same errors.

    Kernels exist for bfloat16, float16 and float32 on CPUs, with running averages in float32. They compute statistics
    in float32. For everything else torch's own operations compute the result.

    Args:
        x: (N, C, *), with any number of trailing dimensions. The output has its memory format.
        running_mean: (C,), updated in training; None to keep no average.
        running_var: (C,), updated in training with the unbiased variance; None if and only if `running_mean` is None.
        weight: (C,), of the dtype of `x`; for a bfloat16 or float16 `x` also float32.
        bias: (C,), of the dtypes of `weight`; both have the same one.
        training: Normalize by the statistics of the batch. Without it, both running averages are required.
        momentum: The weight of the batch in the running averages.
        eps: Added to the variance.
        residual: (N, C, *), added before the activation, in the dtype of `x`.
        activation: None, "relu", "silu" or "gelu" (exact, by the error function).
        ghost_batch_size: In training, normalize each consecutive chunk of that many samples by the statistics of the
            chunk (Hoffer et al., 2017, arXiv:1705.08741). The last chunk may be smaller. The running averages are
            updated once, by the mean of the statistics of the chunks, weighted by their numbers of samples.
        return_skip: Return the output twice; see `gn.group_norm`. Neither output may be modified in place.

    Returns:
        (N, C, *), of the dtype of `x`; with `return_skip` a pair of that.

    Raises:
        ValueError: The activation is unknown, `residual` has another shape than `x`, `ghost_batch_size` is not
            positive, a chunk of a training batch has one value per channel, `eps` is not positive in training, or only
            one running average is given.
        TypeError: `momentum` or `eps` is no number, or `ghost_batch_size` no integer.
        RuntimeError: Another argument has a shape, dtype or device that `torch.nn.functional.batch_norm` refuses; or
            the backend "kernels" is selected and has no kernel for the arguments.
    """
    if has_torch_function_variadic(x, running_mean, running_var, weight, bias, residual):
        return handle_torch_function(
            batch_norm,  # type: ignore[arg-type]  # because of its overloads
            (x, running_mean, running_var, weight, bias, residual),
            x,
            running_mean,
            running_var,
            weight,
            bias,
            training,
            momentum,
            eps,
            residual=residual,
            activation=activation,
            ghost_batch_size=ghost_batch_size,
            return_skip=return_skip,
        )
    if type(momentum) is not float or type(eps) is not float:
        momentum, eps = validation.number("momentum", momentum), validation.number("eps", eps)
    if ghost_batch_size is not None and type(ghost_batch_size) is not int:
        ghost_batch_size = validation.integer("ghost_batch_size", ghost_batch_size)
    call = BatchCall(
        x, running_mean, running_var, weight, bias, training, momentum, eps, residual, activation, ghost_batch_size
    )
    # The extension checks the arguments itself: at batch 2 everything below takes longer than the kernels.
    if outputs := backends.run_batch_extension(call, return_skip):
        return (outputs[0], outputs[1]) if return_skip else outputs[0]
    if residual is not None and residual.is_sparse:
        residual = residual.to_dense()
        call = call._replace(residual=residual)
    if not dispatch.is_traced():  # torch warns of comparisons of shapes
        validation.check_batch(call)
    if residual is not None and residual.dtype != x.dtype:
        call = call._replace(residual=residual.to(x.dtype))
    y = batch_operators.batch_norm(call)
    return (y, y) if return_skip else y
