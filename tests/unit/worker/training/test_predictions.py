"""The predictions of a checkpoint: as the training evaluated it, and by batch statistics, of other images."""

import base64
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.nn import functional as F

from worker.checkpoints.checkpoint import Checkpoint, network_of
from worker.data.batches import TrainingData
from worker.data.datasets import ImageDataset
from worker.evaluation_spec import EvaluationSpec
from worker.models import build_model
from worker.training import precise_statistics
from worker.training.predictions import MOST_MISTAKES, evaluate_checkpoint

CPU = torch.device("cpu")
BATCH = {"normalization": {"type": "batch"}, "batch_size": 4, "epochs": 1}


@pytest.fixture
def evaluate(synthetic: ImageDataset) -> Any:
    """Evaluates a checkpoint with the given choices."""
    return lambda taken, **asked: evaluate_checkpoint(taken, synthetic, EvaluationSpec(**asked), CPU)


@pytest.mark.parametrize("given", [{}, {"ema": {"decay": 0.5}}, {"dataset": {"holdout": 16}}], ids=str)
def test_without_a_choice_loss_and_error_are_those_of_the_training(
    attempt: Any, make_spec: Any, evaluate: Any, given: dict[str, Any]
) -> None:
    taken: Checkpoint = attempt(make_spec(**BATCH, **given)).checkpoints[-1]
    found = evaluate(taken)

    assert [found.loss, found.error] == list(taken.metrics.values())[:2]
    assert (found.split, found.images) == (("holdout", 16) if "dataset" in given else ("test", 50))
    assert (found.precision, found.device, found.batch_statistics) == ("float32", "cpu", None)


def test_batch_statistics_are_those_of_the_training(
    attempt: Any, make_spec: Any, synthetic: ImageDataset, evaluate: Any
) -> None:
    spec = make_spec(**BATCH)
    taken = attempt(spec).checkpoints[-1]
    model = build_model(spec.model, spec.normalization, seed=0)
    model.load_state_dict(safetensors.torch.load(taken.files["model.safetensors"]))
    model.train()
    losses = []
    with torch.no_grad():
        for images, labels in TrainingData(spec, synthetic).eval_batches():
            for some, theirs in zip(images.split(8), labels.split(8), strict=True):
                losses.append(F.cross_entropy(model(some), theirs, reduction="sum"))

    found = evaluate(taken, batch_statistics=8)
    assert found.loss == pytest.approx(float(sum(losses)) / 50, rel=1e-6)
    assert found.loss != evaluate(taken).loss
    assert evaluate(taken).loss == taken.metrics["test_loss"], "the running averages of the checkpoint have changed"


def test_without_statistics_over_the_batch_both_ways_are_equal(attempt: Any, make_spec: Any, evaluate: Any) -> None:
    taken = attempt(make_spec(epochs=1)).checkpoints[-1]

    assert evaluate(taken, batch_statistics=1).loss == pytest.approx(evaluate(taken).loss, rel=1e-6)
    assert evaluate(taken, precision="bfloat16").loss == pytest.approx(evaluate(taken).loss, rel=0.05)
    assert evaluate(taken, precision="bfloat16").precision == "bfloat16"


def test_confusion_and_mistakes_are_of_the_images_of_the_split(
    attempt: Any, make_spec: Any, synthetic: ImageDataset, evaluate: Any
) -> None:
    taken = attempt(make_spec(**BATCH, dataset={"holdout": 16})).checkpoints[-1]
    parts = {
        "train": (48, synthetic.train_images, synthetic.train_labels),
        "holdout": (16, synthetic.train_images, synthetic.train_labels),
        "test": (50, synthetic.test_images, synthetic.test_labels),
    }
    for split, (count, images, labels) in parts.items():
        found = evaluate(taken, split=split)
        confusion = np.array(found.confusion)
        assert (found.split, found.images, confusion.shape, confusion.sum()) == (split, count, (10, 10), count)
        assert found.error == pytest.approx(1 - confusion.trace() / count)
        wrong = count - confusion.trace()
        assert len(found.mistakes) == min(wrong, MOST_MISTAKES) > 0
        confidences = [one.confidence for one in found.mistakes]
        assert confidences == sorted(confidences, reverse=True)
        for one in found.mistakes:
            assert one.label == labels[one.index] != one.predicted
            pixels = np.frombuffer(base64.b64decode(one.pixels), np.uint8).reshape(32, 32, 3)
            assert np.array_equal(pixels.transpose(2, 0, 1), images[one.index])


def test_a_holdout_that_the_training_did_not_have_is_refused(attempt: Any, make_spec: Any, evaluate: Any) -> None:
    taken = attempt(make_spec(epochs=1)).checkpoints[-1]
    with pytest.raises(ValueError, match="the split is holdout, but the training holds out no images"):
        evaluate(taken, split="holdout")


@pytest.mark.parametrize(
    "normalization", ["batch", "batch_renorm", "batch_instance", "switchable", "evonorm_b0", "batch_ws"]
)
def test_precise_statistics_over_one_batch_are_those_of_that_batch(
    attempt: Any, make_spec: Any, evaluate: Any, normalization: str
) -> None:
    spec = make_spec(normalization={"type": normalization}, batch_size=64, epochs=1, augmentation="none")
    taken = attempt(spec).checkpoints[-1]
    by_batch, precise = (
        evaluate(taken, split="train", **{f"{name}_statistics": 64}).loss for name in ("batch", "precise")
    )
    if normalization == "batch_renorm":  # it corrects the batch towards its running averages
        assert precise != evaluate(taken, split="train").loss
    else:
        assert precise == pytest.approx(by_batch, rel=1e-5)


@pytest.mark.parametrize("normalization", [{"type": "batch"}, {"type": "batch", "ghost_batch_size": 2}], ids=str)
def test_precise_statistics_are_over_training_images_in_batches_of_the_training(
    attempt: Any, make_spec: Any, synthetic: ImageDataset, normalization: dict[str, Any]
) -> None:
    spec = make_spec(normalization=normalization, batch_size=4, epochs=2)
    data = TrainingData(spec, synthetic)
    trained = attempt(spec).checkpoints[-1]
    for images, batches in ((1, 1), (12, 3), (10_000, 16)):
        _, model = network_of(trained)
        layers = [model.get_submodule(name) for name in ("stem_norm", "stages.0.0.norm1")]
        inputs: list[list[torch.Tensor]] = [[], []]
        for layer, found in zip(layers, inputs, strict=True):
            layer.register_forward_pre_hook(lambda _, given, found=found: found.append(given[0]))
        with torch.no_grad():
            precise_statistics.estimate(model, spec, data, images, epoch=2, precision="float32")
        assert [len(x) for x in inputs[0]] == [4] * batches
        for layer, found in zip(layers, inputs, strict=True):
            variance, mean = torch.var_mean(torch.cat(found).double(), (0, 2, 3), correction=0)
            torch.testing.assert_close(layer.running_mean, mean.float())
            torch.testing.assert_close(layer.running_var, variance.float())


def test_workers_that_normalize_together_are_estimated_together(make_spec: Any, synthetic: ImageDataset) -> None:
    spec = make_spec(normalization={"type": "sync_batch"}, batch_size=4, num_workers=2)
    sizes: list[int] = []
    model = build_model(spec.model, spec.normalization, seed=0)
    model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    data = TrainingData(spec, synthetic)
    with torch.no_grad():
        precise_statistics.estimate(model, spec, data, 20, epoch=1, precision="float32")
    assert sizes == [8, 8]
