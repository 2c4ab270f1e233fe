"""On a GPU, batches equal those of a CPU, and with `deterministic` a resumed training is bit-identical."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from worker.checkpoints.checkpoint import Checkpoint
from worker.data.batches import TrainingData
from worker.data.datasets import ImageDataset
from worker.distributed.process_group import SINGLE_WORKER, ProcessGroup, join
from worker.distributed.rank import RankInfo
from worker.events import Event, Log, Metrics, Started
from worker.numerics.precision import numeric_settings
from worker.training.evaluation import evaluate
from worker.training.loop import train
from worker.training.static_step import StaticStep
from worker.training.step_cache import StepCache

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.fixture
def on_the_gpu(
    synthetic: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[list[Event], list[Checkpoint]]]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    def run(
        spec: Any, resume: Checkpoint | None = None, group: ProcessGroup = SINGLE_WORKER
    ) -> tuple[list[Event], list[Checkpoint]]:
        events: list[Event] = []
        checkpoints: list[Checkpoint] = []
        finished = train(
            spec,
            synthetic,
            device="cuda",
            report=events.append,
            save=lambda _, checkpoint: checkpoints.append(checkpoint),
            resume=resume,
            group=group,
        )
        assert finished.failure is None, finished.failure
        return events, checkpoints

    return run


@pytest.mark.parametrize("type", ["batch", "layer", "instance", "group", "none"])
def test_a_deterministic_training_resumes_bit_for_bit(make_spec: Any, on_the_gpu: Any, type: str) -> None:
    spec = make_spec(normalization={"type": type}, deterministic=True, checkpoint={"every_s": 1e-9})
    _, alone = on_the_gpu(spec)
    _, resumed = on_the_gpu(spec, alone[2])

    assert alone[2].step == 3
    assert alone[-1].files["model.safetensors"] == resumed[-1].files["model.safetensors"]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("type", ["batch", "layer", "group", "none"])
def test_a_captured_step_gives_the_bits_of_an_eager_one(
    make_spec: Any, on_the_gpu: Any, monkeypatch: pytest.MonkeyPatch, type: str, optimizer: str
) -> None:
    spec = make_spec(
        normalization={"type": type}, optimizer={"type": optimizer}, batch_size=10, drop_last=False, deterministic=True
    )
    events, captured = on_the_gpu(spec)
    monkeypatch.setattr(StaticStep, "capture", lambda step: setattr(step, "is_capturable", False))
    _, eager = on_the_gpu(spec)

    assert not [event for event in events if isinstance(event, Log)], "the step was not captured"
    assert captured[-1].files["model.safetensors"] == eager[-1].files["model.safetensors"]


def test_a_step_is_captured_after_all_slots_were_used(make_spec: Any, synthetic: ImageDataset) -> None:
    spec, device = make_spec(), torch.device("cuda")
    step = StaticStep(spec, device, "float32")
    batches = list(TrainingData(spec, synthetic, device=device).epoch_batches(1))[:1] * step.num_slots
    step.fill(batches, [0.1] * len(batches))
    for _ in batches:
        step.run()
    step.capture()
    torch.cuda.synchronize()


def test_a_capture_changes_no_tensor_and_later_trainings_replay_it(make_spec: Any) -> None:
    spec, device = make_spec(normalization={"type": "batch"}), torch.device("cuda")
    cache = StepCache(max_bytes=1 << 30)
    step = cache.take(spec, device, "float32")
    before = [tensor.detach().clone() for tensor in step.state()]
    step.capture()
    assert all(map(torch.equal, before, step.state()))

    cache.keep(spec, step)
    graph = cache.take(spec, device, "float32").graph
    assert graph is step.graph is not None


def test_batches_are_those_of_the_cpu(make_spec: Any, synthetic: ImageDataset) -> None:
    on_cpu = TrainingData(make_spec(), synthetic).epoch_batches(1)
    on_gpu = TrainingData(make_spec(), synthetic, device="cuda").epoch_batches(1)

    for (images, labels), (other_images, other_labels) in zip(on_cpu, on_gpu, strict=True):
        torch.testing.assert_close(images, other_images.cpu())
        assert torch.equal(labels, other_labels.cpu())


def test_auto_precision_is_bfloat16_and_rows_have_the_steps_of_a_cpu(
    make_spec: Any, on_the_gpu: Any, attempt: Any
) -> None:
    events, _ = on_the_gpu(make_spec())

    assert isinstance(events[0], Started)
    assert events[0].precision == "bfloat16"
    rows = [(event.kind, event.step) for event in events if isinstance(event, Metrics)]
    assert rows == [(kind, step) for kind, _, step, _ in attempt(make_spec()).rows]


def test_a_group_of_one_over_nccl_gives_the_weights_of_a_single_worker(on_the_gpu: Any, make_spec: Any) -> None:
    spec = make_spec(normalization={"type": "batch"}, deterministic=True)
    alone = on_the_gpu(spec)[1][-1]
    group = join(RankInfo(0, 1, "127.0.0.1", timeout_s=60), "one", torch.device("cuda"))
    try:
        together = on_the_gpu(spec, group=group)[1][-1]
    finally:
        group.close()

    assert together.files["model.safetensors"] == alone.files["model.safetensors"]


def test_a_captured_evaluation_gives_the_bits_of_an_eager_one(make_spec: Any, synthetic: ImageDataset) -> None:
    spec = make_spec(deterministic=True, dataset={"test_limit": 600})
    device = torch.device("cuda")
    with numeric_settings(spec, device):
        step, data = StaticStep(spec, device, "bfloat16"), TrainingData(spec, synthetic, device=device)
        eager = evaluate(step.model, data, precision="bfloat16")
        step.evaluation.capture()
        assert evaluate(step.model, data, step=step.evaluation) == eager
