"""The test cases of PyTorch for its own GroupNorm."""

import warnings

import pytest
import torch
from torch.testing import assert_close

import gn

pytest.importorskip("expecttest", reason="torch.testing._internal needs it")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

OPERATOR = next(operator for operator in op_db if operator.name == "nn.functional.group_norm")
MODULE = next(module for module in module_db if module.module_cls is torch.nn.GroupNorm)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def tensors(value: object) -> list[torch.Tensor]:
    return [value] if isinstance(value, torch.Tensor) else []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["sample_inputs", "reference_inputs"])
def test_function_gives_the_results_and_gradients_of_torch(kind: str, dtype: torch.dtype) -> None:
    cases = 0
    for case in getattr(OPERATOR, kind)("cpu", dtype, requires_grad=True):
        leaves = [case.input, *(t for value in (*case.args, *case.kwargs.values()) for t in tensors(value))]
        expected = OPERATOR.op(case.input, *case.args, **case.kwargs)
        actual = gn.group_norm(case.input, *case.args, **case.kwargs)
        assert_close(actual, expected, equal_nan=True)
        if case.kwargs.get("weight") is None and case.kwargs.get("bias") is not None:
            continue  # torch 2.13 fails: see test_cpu.py
        dy = torch.randn_like(expected)
        ours = torch.autograd.grad(actual, leaves, dy)
        theirs = torch.autograd.grad(expected, leaves, dy)
        for our, their in zip(ours, theirs, strict=True):
            # torch rounds its mean and rstd in half precision, so its gradients are less accurate than those of gn.
            tolerance = {torch.bfloat16: 6e-2, torch.float16: 1e-2}.get(dtype)
            assert_close(our, their, equal_nan=True, rtol=tolerance, atol=tolerance)
        cases += 1
    assert cases > 5


def test_function_raises_the_errors_of_torch() -> None:
    cases = list(OPERATOR.error_inputs("cpu"))
    for case in cases:
        with pytest.raises(case.error_type, match=case.error_regex):
            gn.group_norm(case.sample_input.input, *case.sample_input.args, **case.sample_input.kwargs)
    assert cases


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_module_gives_the_results_of_torch(dtype: torch.dtype) -> None:
    cases = MODULE.module_inputs_func(MODULE, device="cpu", dtype=dtype, requires_grad=True, training=True)
    for case in cases:
        made = case.constructor_input
        options = made.kwargs | {"dtype": dtype}
        theirs, ours = (kind(*made.args, **options) for kind in (torch.nn.GroupNorm, gn.GroupNorm))
        assert_close(ours(*case.forward_input.args), theirs(*case.forward_input.args))
        assert repr(ours) == repr(theirs)
        assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert len(cases) >= 8


def test_module_raises_the_errors_of_torch() -> None:
    cases = MODULE.module_error_inputs_func(
        MODULE, device="cpu", dtype=torch.float32, requires_grad=False, training=True
    )
    for case in cases:
        made = case.module_error_input.constructor_input
        with pytest.raises(case.error_type, match=case.error_regex):
            gn.GroupNorm(*made.args, **made.kwargs)
    assert cases
