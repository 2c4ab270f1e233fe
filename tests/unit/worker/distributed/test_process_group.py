"""n workers with batches of b train like one worker with batches of n·b, except for batch statistics."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from tests.unit.worker.distributed import groups
from tests.unit.worker.distributed.groups import HOST, PATIENCE_S, Died, Stop, Team, attempt, records
from worker.checkpoints.checkpoint import Checkpoint
from worker.data.batches import TrainingData
from worker.distributed.process_group import SINGLE_WORKER, DistributedGroup, ProcessGroup, join
from worker.distributed.rank import RankInfo
from worker.models import build_model
from worker.normalizations import registry
from worker.normalizations.layers import normalize
from worker.normalizations.sync_batch import SyncBatchNormalization
from worker.spec import TrainingSpec
from worker.training.loop import train

FUSED = ("group", "layer", "instance", "none", "sync_batch", "batch")
NORMALIZATIONS = [type for type, specification in registry.NORMALIZATIONS.items() if not specification.not_distributed]


def memory(model: nn.Module) -> tuple[Tensor, list[Tensor]]:
    """Return memory for the gradients of a model, and the part of each parameter."""
    parameters = list(model.parameters())
    flat = torch.zeros(sum(parameter.numel() for parameter in parameters), dtype=torch.float64)
    parts = torch.split(flat, [parameter.numel() for parameter in parameters])
    return flat, [part.view(parameter.shape) for part, parameter in zip(parts, parameters, strict=True)]


def gradients(group: ProcessGroup, given: str) -> list[Tensor]:
    """Return the gradients of the second step of the third epoch, in float64."""
    spec = TrainingSpec.model_validate_json(given)
    data = TrainingData(spec, groups.synthetic(), rank=group.rank, num_workers=group.world_size)
    model = build_model(spec.model, spec.normalization, seed=1).double()
    with torch.no_grad():
        for parameter in model.parameters():
            # A block that starts as the identity would leave most gradients 0.
            parameter.add_(0.05)
    group.prepare(model, *memory(model))
    images, labels = next(iter(data.epoch_batches(3, first_step=1)))
    loss = F.cross_entropy(model(images.double()), labels)
    return list(group.average(torch.autograd.grad(loss, list(model.parameters()))))


@pytest.mark.parametrize(
    ("workers", "normalization"),
    [*((2, type) for type in NORMALIZATIONS), *((3, type) for type in FUSED)],
)
def test_the_gradient_is_that_of_one_worker_with_the_whole_batch(
    team: Team, make_spec: Any, normalization: str, workers: int
) -> None:
    given: dict[str, Any] = {"normalization": {"type": normalization}, "dataset": {"train_limit": 48}}
    several = make_spec(**given, batch_size=4, num_workers=workers)
    whole = gradients(SINGLE_WORKER, make_spec(**given, batch_size=4 * workers).model_dump_json())

    found = team.run(workers, gradients, several.model_dump_json())

    for rank in range(1, workers):
        assert all(map(torch.equal, found[0], found[rank])), "the workers would part"
    largest = max(float(gradient.abs().max()) for gradient in whole)
    worst = max(float((a - b).abs().max()) for a, b in zip(found[0], whole, strict=True)) / largest
    # Statistics over a part of the batch differ, which is the subject of the paper.
    of_a_worker, of_all = (several.normalization.images_together(4, number) for number in (1, workers))
    least = 0.01 if normalization == "batch" else 1e-4
    assert worst > least if of_a_worker == of_all == 4 else worst < 1e-9


@pytest.mark.parametrize("normalization", sorted(registry.NORMALIZATIONS.keys() - set(NORMALIZATIONS)))
def test_a_normalization_that_needs_the_running_averages_of_one_worker_is_refused(
    make_spec: Any, normalization: str
) -> None:
    make_spec(normalization={"type": normalization})
    with pytest.raises(ValidationError, match=f"num_workers is 2, but {normalization} trains on one worker only"):
        make_spec(normalization={"type": normalization}, num_workers=2)


def test_workers_see_the_images_of_one_with_the_whole_batch_cropped_and_mirrored_alike(
    make_spec: Any, synthetic: Any
) -> None:
    whole = TrainingData(make_spec(batch_size=12, dataset={"train_limit": 100}), synthetic)
    spec = make_spec(batch_size=4, num_workers=3, dataset={"train_limit": 100})
    parts = [TrainingData(spec, synthetic, rank=rank, num_workers=3) for rank in range(3)]

    for first_step in (0, 5):
        batches = [list(part.epoch_batches(2, first_step)) for part in parts]
        expected = list(whole.epoch_batches(2, first_step))
        assert [len(of_rank) for of_rank in batches] == [8 - first_step] * 3 == [len(expected)] * 3
        for step, (images, labels) in enumerate(expected):
            assert torch.equal(torch.cat([of_rank[step][0] for of_rank in batches]), images)
            assert torch.equal(torch.cat([of_rank[step][1] for of_rank in batches]), labels)


@pytest.mark.parametrize("test_limit", [1, 250, 600])
def test_every_image_is_evaluated_by_one_worker_in_as_many_batches(
    make_spec: Any, synthetic: Any, test_limit: int
) -> None:
    spec = make_spec(num_workers=3, dataset={"test_limit": test_limit})
    parts = [list(TrainingData(spec, synthetic, rank=r, num_workers=3).eval_batches()) for r in range(3)]

    assert len({len(part) for part in parts}) == 1
    assert sum(len(labels) for part in parts for _, labels in part) == test_limit


def normalized(group: ProcessGroup, affine: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the outputs, gradients and buffers of a layer for this worker's part of six images."""
    layer = normalize(SyncBatchNormalization(affine=affine, momentum=0.3), 4, "relu")
    group.prepare(layer, *memory(layer))
    images = torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(0)) * 3 + 100
    x = images.chunk(group.world_size)[group.rank].to(dtype).requires_grad_()
    y = layer(x, x.detach())
    (y.float() * torch.linspace(-1, 1, 25).view(5, 5)).sum().backward()
    assert x.grad is not None
    found = {"y": y.detach(), "of x": x.grad} | {name: buffer.clone() for name, buffer in layer.named_buffers()}
    layer.eval()
    return found | {"evaluated": layer(x).detach()}


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_over_all_workers_is_batch_normalization_of_the_whole_batch(
    team: Team, affine: bool, dtype: torch.dtype
) -> None:
    whole = normalized(SINGLE_WORKER, affine, dtype)
    parts = team.run(3, normalized, affine, dtype)

    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for name in ("y", "of x", "evaluated"):
        found = torch.cat([part[name] for part in parts])
        torch.testing.assert_close(found, whole[name], rtol=tolerance, atol=tolerance)
    for part in parts:
        assert part["num_batches_tracked"] == 1
        for name in ("running_mean", "running_var"):
            assert part[name].dtype == torch.float32
            torch.testing.assert_close(part[name], whole[name], rtol=1e-4, atol=1e-4)


def losses(record: Any) -> dict[tuple[str, int], float]:
    return {(kind, step): next(value for name, value in values.items() if name.endswith("_loss"))
            for kind, _, step, values in record.rows}  # fmt: skip


@pytest.mark.parametrize("normalization", ["group", "sync_batch"])
def test_two_workers_report_what_one_with_the_whole_batch_does(
    team: Team, make_spec: Any, attempt: Any, normalization: str
) -> None:
    given: dict[str, Any] = {"normalization": {"type": normalization}, "epochs": 1, "dataset": {"test_limit": 300}}
    one = attempt(make_spec(**given, batch_size=16))
    first, second = records(team, make_spec(**given, batch_size=8, num_workers=2))

    assert [event.type for event in second.events] == ["finished"]
    assert second.finished.outcome == first.finished.outcome == "succeeded"
    assert [(kind, epoch, step) for kind, epoch, step, _ in first.rows] == [row[:3] for row in one.rows]
    assert losses(first) == pytest.approx(losses(one), rel=1e-3)
    rates = [[values.get("learning_rate") for *_, values in record.rows] for record in (first, one)]
    assert rates[0] == rates[1]


def test_a_row_averages_over_the_images_of_all_workers(team: Team, make_spec: Any) -> None:
    spec = make_spec(batch_size=8, num_workers=2, epochs=1)
    first, _ = records(team, spec)

    rows = [values for kind, _, _, values in first.rows if kind == "train"]
    assert len(rows) == 4
    assert all((row["train_error"] * 16) % 1 == 0 for row in rows)
    assert any((row["train_error"] * 8) % 1 for row in rows), "half of the images would do"


@pytest.mark.parametrize("normalization", ["group", "batch"])
def test_three_workers_paused_within_an_epoch_resume_with_equal_weights_and_rows(
    team: Team, make_spec: Any, normalization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(
        normalization={"type": normalization},
        batch_size=4,
        num_workers=3,
        epochs=2,
        dataset={"train_limit": 240, "test_limit": 10},
        checkpoint={"every_epochs": 2},
    )
    whole = records(team, spec)[0]
    # Within the fourth of ten rows of an epoch of 20 steps.
    stopped = records(team, spec, resume=None, stop=Stop(0, "pause", 7))
    assert [record.finished.outcome for record in stopped] == ["paused"] * 3
    assert [checkpoint.step for checkpoint in stopped[0].checkpoints] == [7]
    resumed = records(team, spec, resume=stopped[0].checkpoints[0])[0]

    assert resumed.weights == whole.weights
    assert stopped[0].rows + resumed.rows == whole.rows


def test_the_clock_of_rank_zero_decides_when_a_checkpoint_is_due(team: Team, make_spec: Any) -> None:
    spec = make_spec(batch_size=8, num_workers=2, epochs=2, checkpoint={"every_s": 1e-9, "every_epochs": 2})
    first, second = records(team, spec)

    assert [checkpoint.step for checkpoint in first.checkpoints] == list(range(1, 9))
    assert not second.checkpoints


def test_a_cancellation_of_one_worker_cancels_all(team: Team, make_spec: Any) -> None:
    found = records(team, make_spec(batch_size=4, num_workers=3), resume=None, stop=Stop(2, "cancel", 2))

    assert [record.finished.outcome for record in found] == ["cancelled"] * 3
    assert not found[0].checkpoints


def diverging(group: DistributedGroup, spec: str) -> Any:
    """Run an attempt in which the loss of the second step is not finite on rank 1."""
    steps = 0
    cross_entropy = F.cross_entropy

    def spoilt(*arguments: Any, **keywords: Any) -> Tensor:
        nonlocal steps
        steps += 1
        loss = cross_entropy(*arguments, **keywords)
        return loss * math.nan if group.rank == 1 and steps == 2 else loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "cross_entropy", spoilt)
        return attempt(group, spec)


def test_a_loss_that_is_not_finite_fails_all_workers_and_is_reported_by_its_own(team: Team, make_spec: Any) -> None:
    first, second, third = team.run(3, diverging, make_spec(batch_size=4, num_workers=3).model_dump_json())

    assert second.finished.failure.code == "diverged"
    assert second.finished.failure.step == 2
    assert [record.finished.failure.code for record in (first, third)] == ["peer", "peer"]
    assert [kind for kind, *_ in first.rows] == ["train"]


@pytest.mark.parametrize("rank", [0, 2])
def test_the_other_workers_notice_a_death_and_can_train_again(team: Team, make_spec: Any, rank: int) -> None:
    spec = make_spec(batch_size=4, num_workers=3, epochs=1)
    undisturbed = records(team, spec)[0].weights
    found = [*records(team, spec, resume=None, stop=Stop(rank, None, 2, die=True))]

    assert isinstance(found.pop(rank), Died)
    for record in found:
        assert record.finished.failure.code == "peer"
        assert record.finished.failure.may_pass
        assert "lost the other workers" in record.finished.failure.message
    assert records(team, spec)[0].weights == undisturbed


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_group_of_one_gives_the_weights_of_a_single_worker(make_spec: Any, synthetic: Any, precision: str) -> None:
    spec = make_spec(normalization={"type": "sync_batch"}, precision=precision)
    weights = []
    for group in (SINGLE_WORKER, join(RankInfo(0, 1, HOST, PATIENCE_S), "one", torch.device("cpu"))):
        checkpoints: list[Checkpoint] = []
        train(
            spec,
            synthetic,
            report=lambda _: None,
            save=lambda _, checkpoint, taken=checkpoints: taken.append(checkpoint),  # type: ignore[misc]
            group=group,
        )
        group.close()
        weights.append(checkpoints[-1].files["model.safetensors"])

    assert weights[0] == weights[1]


@pytest.mark.parametrize("exchange", ["all_reduce", "all_gather"])
def test_a_collective_that_fails_within_a_step_is_blamed_on_the_peer(
    make_spec: Any, synthetic: Any, monkeypatch: pytest.MonkeyPatch, exchange: str
) -> None:
    """Gradients and the statistics of sync_batch are exchanged during the backward pass."""
    group = join(RankInfo(0, 1, HOST, PATIENCE_S), "one", torch.device("cpu"))
    group.world_size = 2 if exchange == "all_gather" else 1
    spec = make_spec(normalization={"type": "sync_batch"}, num_workers=group.world_size, batch_size=8)
    whole, calls = getattr(torch.distributed, exchange), 0

    def broken(tensor: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += isinstance(tensor, list) or tensor.is_floating_point()
        # The forward pass of resnet20 gathers the statistics of 19 layers; the next one is of the backward pass.
        if calls > (19 if exchange == "all_gather" else 0):
            raise RuntimeError("[pair.cc:547] Connection closed by peer")
        if exchange == "all_gather":
            return [part.copy_(arguments[0]) for part in tensor]
        return whole(tensor, *arguments, **options)

    monkeypatch.setattr(torch.distributed, exchange, broken)
    finished = train(spec, synthetic, report=lambda _: None, save=refuse, group=group)
    group.close()

    assert finished.failure is not None
    assert finished.failure.code == "peer"
    assert finished.failure.message == f"rank 0 of {group.world_size} lost the other workers: Connection closed by peer"


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("a single worker communicated")


def test_a_single_worker_does_not_communicate(
    make_spec: Any, attempt: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("all_reduce", "all_gather", "broadcast", "init_process_group", "barrier"):
        monkeypatch.setattr(f"torch.distributed.{name}", refuse)

    assert attempt(make_spec(checkpoint={"every_s": 1e-9})).finished.outcome == "succeeded"
    assert attempt(make_spec(normalization={"type": "sync_batch"})).finished.outcome == "succeeded"
