"""A static step computes what the ordinary loop of torch does, on memory that never moves."""

import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from worker.data.batches import Batch, TrainingData
from worker.data.datasets import ImageDataset
from worker.events import Event, Log
from worker.models import build_model
from worker.normalizations.registry import NORMALIZATIONS
from worker.numerics.precision import Precision, autocast
from worker.spec import SGD, TrainingSpec
from worker.training.flat_tensors import ALIGNMENT, FlatParameters
from worker.training.loop import train
from worker.training.optimization import learning_rate
from worker.training.static_step import StaticStep
from worker.training.step_cache import StepCache

CPU = torch.device("cpu")
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"type": "sgd"},
    "nesterov": {"type": "sgd", "nesterov": True, "weight_decay": 0},
    "no momentum": {"type": "sgd", "momentum": 0},
    "adam": {"type": "adam", "weight_decay": 1e-4},
}
Losses = list[tuple[float, int]]


def batches_of(spec: TrainingSpec, dataset: ImageDataset) -> list[Batch]:
    """Return all batches of the first epoch."""
    return list(TrainingData(spec, dataset).epoch_batches(1))


def ordinary(spec: TrainingSpec, batches: Sequence[Batch], precision: Precision) -> tuple[Any, Any, Losses]:
    """Train with torch's optimizer; return the network, the optimizer, and the loss and errors of each step."""
    model = build_model(spec.model, spec.normalization, seed=spec.seed).train()
    settings = spec.optimizer.model_dump(exclude={"type", "learning_rate"})
    build = torch.optim.SGD if isinstance(spec.optimizer, SGD) else torch.optim.Adam
    optimizer: Any = build(model.parameters(), lr=spec.optimizer.learning_rate, fused=True, **settings)
    found: Losses = []
    for step, (images, labels) in enumerate(batches):
        with autocast(precision, CPU):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = learning_rate(spec, step)
        optimizer.step()
        found.append((loss.item(), int((logits.argmax(1) != labels).sum())))
    return model, optimizer, found


def run(step: StaticStep, spec: TrainingSpec, batches: Sequence[Batch]) -> Losses:
    """Take a step with each batch, and return the loss and the errors of each."""
    found: Losses = []
    remaining, taken = iter(batches), 0
    while chunk := list(islice(remaining, step.num_slots)):
        step.fill(chunk, [learning_rate(spec, taken + number) for number in range(len(chunk))])
        for _ in chunk:
            step.run()
        found += [(result.loss, result.errors) for result in step.results()]
        taken += len(chunk)
    return found


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


def weights(step_or_model: Any) -> dict[str, bytes]:
    model = getattr(step_or_model, "model", step_or_model)
    return {name: bits(tensor) for name, tensor in model.state_dict().items()}


def moments(optimizer: Any) -> dict[int, dict[str, tuple[bytes, tuple[int, ...]]]]:
    state = optimizer.state_dict()["state"]
    return {number: {name: (bits(t), t.stride()) for name, t in of.items()} for number, of in state.items()}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("normalization", ["group", "batch", "none"])
def test_weights_state_losses_and_errors_are_those_of_the_ordinary_loop_bit_for_bit(
    make_spec: Any, synthetic: ImageDataset, normalization: str, optimizer: str, precision: Precision
) -> None:
    spec = make_spec(
        normalization={"type": normalization},
        optimizer=OPTIMIZERS[optimizer],
        batch_size=4,
        drop_last=False,
        dataset={"train_limit": 11},
        schedule={"type": "cosine"},
    )
    batches = batches_of(spec, synthetic)
    assert [len(labels) for _, labels in batches] == [4, 4, 3]
    model, torchs, expected = ordinary(spec, batches, precision)
    step = StaticStep(spec, CPU, precision)

    assert run(step, spec, batches) == expected
    assert weights(step) == weights(model)
    assert moments(step.optimizer) == moments(torchs)
    assert step.optimizer.state_dict()["param_groups"] == torchs.state_dict()["param_groups"]


@pytest.mark.parametrize(
    ("model", "normalization"), [("resnet20", "group_ws"), ("resnet18", "group"), ("vgg", "group"), ("vgg", "batch_ws")]
)
def test_weights_cast_at_once_give_the_bits_of_autocast(
    make_spec: Any, synthetic: ImageDataset, model: str, normalization: str
) -> None:
    spec = make_spec(model=model, normalization={"type": normalization}, batch_size=2, dataset={"train_limit": 4})
    batches = batches_of(spec, synthetic)
    network, _, expected = ordinary(spec, batches, "bfloat16")
    step = StaticStep(spec, CPU, "bfloat16")

    assert run(step, spec, batches) == expected
    assert weights(step) == weights(network)


class CountKernels(TorchDispatchMode):
    """Counts the operations that are not views, each of which is at least one kernel on a GPU."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view and "empty" not in func.name()
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("normalization", "precision", "limit"),
    # With casts of each weight, padded slices and a counter in each layer: 157, 112, 223 and 178.
    [("group", "bfloat16", 116), ("group", "float32", 111), ("batch", "bfloat16", 164), ("batch", "float32", 159)],
)
def test_a_step_of_resnet20_has_few_kernels(
    make_spec: Any, synthetic: ImageDataset, normalization: str, precision: Precision, limit: int
) -> None:
    spec = make_spec(model="resnet20", normalization={"type": normalization}, batch_size=2, dataset={"train_limit": 4})
    step = StaticStep(spec, CPU, precision)
    batches = batches_of(spec, synthetic)
    step.fill(batches, [0.1] * len(batches))
    step.run()

    with CountKernels() as kernels:
        step.run()
    assert kernels.count <= limit


def test_the_state_of_an_optimizer_is_empty_before_its_first_step(make_spec: Any) -> None:
    optimizer = StaticStep(make_spec(), CPU, "float32").optimizer

    assert optimizer.state_dict()["state"] == {}
    assert optimizer.state_dict()["param_groups"][0]["lr"] == make_spec().optimizer.learning_rate


def poison(step: StaticStep) -> None:
    """Overwrite everything that a training leaves behind."""
    with torch.no_grad():
        for tensor in (*step.memory(), *step.model.buffers()):
            tensor.fill_(math.nan if tensor.is_floating_point() else 1 << 40)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("normalization", ["group", "batch"])
def test_a_training_on_used_memory_is_that_on_fresh_memory(
    make_spec: Any, synthetic: ImageDataset, normalization: str, optimizer: str
) -> None:
    given = {"normalization": {"type": normalization}, "batch_size": 4, "dataset": {"train_limit": 12}}
    first = make_spec(**given, optimizer=OPTIMIZERS[optimizer])
    second = make_spec(**given, optimizer=OPTIMIZERS[optimizer] | {"learning_rate": 0.01}, seed=8)
    cache = StepCache(max_bytes=1 << 30)
    found = []
    for spec in (first, second, first):
        step = cache.take(spec, CPU, "float32")
        found.append((id(step), run(step, spec, batches_of(spec, synthetic)), weights(step), moments(step.optimizer)))
        poison(step)
        cache.keep(spec, step)

    assert found[0] == found[2]
    assert found[0][0] == found[1][0], "the memory was not used again"
    assert found[0][1] != found[1][1]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_no_tensor_moves_in_twenty_steps(make_spec: Any, synthetic: ImageDataset, optimizer: str) -> None:
    spec = make_spec(
        normalization={"type": "batch"},
        optimizer=OPTIMIZERS[optimizer],
        batch_size=2,
        drop_last=False,
        dataset={"train_limit": 39},
    )
    step = StaticStep(spec, CPU, "float32")
    before = [tensor.data_ptr() for tensor in (*step.memory(), *step.parameters, *step.model.buffers())]

    run(step, spec, batches_of(spec, synthetic))
    step.optimizer.load_state_dict(step.optimizer.state_dict())
    step.reset(spec)

    assert [tensor.data_ptr() for tensor in (*step.memory(), *step.parameters, *step.model.buffers())] == before


class NoRead(TorchDispatchMode):
    """Fails when a value is read from a tensor, for which a GPU would have to finish everything before."""

    def __torch_dispatch__(self, function: Any, _: Any, arguments: Any = (), options: Any = None) -> Any:
        assert function not in READS, f"{function} reads a value from the device"
        return function(*arguments, **(options or {}))


READS = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
)


def test_a_value_that_is_read_is_noticed() -> None:
    with NoRead(), pytest.raises(AssertionError, match="reads a value"):
        torch.ones(()).item()


@pytest.mark.parametrize(
    ("normalization", "optimizer"), [*((type, "sgd") for type in NORMALIZATIONS), ("group", "adam")]
)
def test_a_step_reads_nothing_from_the_device_and_moves_no_tensor(
    make_spec: Any, synthetic: ImageDataset, normalization: str, optimizer: str
) -> None:
    spec = make_spec(normalization={"type": normalization}, optimizer=OPTIMIZERS[optimizer], batch_size=4)
    step = StaticStep(spec, CPU, "float32")
    before = [tensor.data_ptr() for tensor in step.state()]
    step.fill(batches_of(spec, synthetic)[:2], [0.1, 0.1])
    with NoRead():
        step.run()
        step.run()

    assert len(step.results()) == 2
    assert [tensor.data_ptr() for tensor in step.state()] == before


def test_results_are_read_once_and_belong_to_their_steps(make_spec: Any, synthetic: ImageDataset) -> None:
    spec = make_spec(batch_size=4, drop_last=False, dataset={"train_limit": 11})
    batches = batches_of(spec, synthetic)
    together, each = StaticStep(spec, CPU, "float32"), StaticStep(spec, CPU, "float32")
    together.fill(batches, [0.1] * 3)
    each.fill(batches, [0.1] * 3)
    found = []
    for _ in batches:
        together.run()
        each.run()
        found += each.results()

    assert together.results() == found
    assert [result.images for result in found] == [4, 4, 3]
    assert together.results() == []


def test_large_batches_are_prepared_a_few_at_a_time(make_spec: Any) -> None:
    steps = [
        StaticStep(make_spec(batch_size=size, dataset={"train_limit": size}), CPU, "float32")
        for size in (2, 1000, 4000)
    ]

    assert [step.num_slots for step in steps] == [16, 2, 1]


def test_flat_parameters_do_not_overlap_and_start_at_cache_lines() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Conv2d(2, 8, 3), torch.nn.Linear(4, 4, bias=False))
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = {name: bits(tensor) for name, tensor in model.named_parameters()}
    strides = [parameter.stride() for parameter in model.parameters()]
    flat = FlatParameters(model)

    assert {name: bits(tensor) for name, tensor in model.named_parameters()} == before
    assert [parameter.stride() for parameter in model.parameters()] == strides
    starts = [(parameter.data_ptr() - flat.values.data_ptr()) // 4 for parameter in model.parameters()]
    assert all(start % ALIGNMENT == 0 for start in starts)
    marked = torch.zeros_like(flat.values)
    for view in flat.views(marked):
        view += 1
    assert marked.max() == 1
    assert marked.sum() == sum(parameter.numel() for parameter in model.parameters())
    parts = flat.parts(flat.values)
    assert sum(part.numel() for part in parts) == marked.sum()
    assert [part.numel() for part in parts] == [8 * 2 * 9 + 16, 15, 5, 8]


def test_the_least_recently_used_step_is_released_first(make_spec: Any) -> None:
    specs = [make_spec(batch_size=size, dataset={"train_limit": 8}) for size in (1, 2, 3)]
    steps = [StaticStep(spec, CPU, "float32") for spec in specs]
    cache = StepCache(max_bytes=steps[0].nbytes + steps[1].nbytes + steps[2].nbytes - 1)
    for spec, step in zip(specs, steps, strict=True):
        cache.keep(spec, step)

    assert cache.take(specs[0], CPU, "float32") is not steps[0]
    assert cache.take(specs[1], CPU, "float32") is steps[1]
    assert cache.take(specs[1], CPU, "float32") is not steps[1], "a step in use was given away"
    assert cache.take(specs[2], CPU, "bfloat16") is not steps[2]


@pytest.fixture
def trained(synthetic: ImageDataset) -> Callable[..., list[Event]]:
    """Trains with the steps of a cache, and returns the events."""

    def run(spec: TrainingSpec, cache: StepCache) -> list[Event]:
        events: list[Event] = []
        train(spec, synthetic, report=events.append, save=lambda *_: None, steps=cache)
        return events

    return run


@pytest.fixture
def uncapturable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that are captured as on a GPU, in vain."""

    def fail(self: StaticStep) -> None:
        self.is_capturable = False
        raise RuntimeError("operation not permitted when stream is capturing\nCompile with TORCH_USE_CUDA_DSA")

    whole = StaticStep.__init__

    def begin(self: StaticStep, *arguments: Any) -> None:
        whole(self, *arguments)
        self.is_capturable = True

    monkeypatch.setattr(StaticStep, "__init__", begin)
    monkeypatch.setattr(StaticStep, "capture", fail)


@pytest.mark.usefixtures("uncapturable")
def test_a_failed_capture_is_logged_once_and_the_training_succeeds(make_spec: Any, trained: Any) -> None:
    cache, spec = StepCache(max_bytes=1 << 30), make_spec(epochs=1)
    first, second = trained(spec, cache), trained(spec, cache)

    (log,) = [event for event in first + second if isinstance(event, Log)]
    assert log is first[1]
    assert log.level == "warning"
    assert log.message.endswith("operation not permitted when stream is capturing")
    assert first[-1].outcome == second[-1].outcome == "succeeded"


def test_the_step_of_a_failed_training_is_not_used_again(
    make_spec: Any, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, spec = StepCache(max_bytes=1 << 30), make_spec(epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(F, "cross_entropy", lambda *_: 1 / 0)
        assert trained(spec, cache)[-1].outcome == "failed"
    kept = cache._steps

    assert not kept
    assert trained(spec, cache)[-1].outcome == "succeeded"
    assert len(kept) == 1
