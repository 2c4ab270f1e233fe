"""The order, crops and mirroring of an epoch are functions of the seed and the epoch."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from worker.data import batches
from worker.data.batches import CHANNEL_STATISTICS, TrainingData, crop_and_mirror, plan_epoch
from worker.data.datasets import DatasetError, ImageDataset
from worker.numerics.seeding import generator


def epoch(spec: Any, dataset: ImageDataset, number: int = 1, first_step: int = 0) -> list[tuple[Tensor, Tensor]]:
    return list(TrainingData(spec, dataset).epoch_batches(number, first_step))


def joined(batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def cropped_by_hand(image: Tensor, row: int, column: int, mirrored: bool) -> Tensor:
    padded = torch.zeros(3, 40, 40, dtype=torch.uint8)
    padded[:, 4:36, 4:36] = image
    crop = padded[:, row : row + 32, column : column + 32]
    return crop.flip(2) if mirrored else crop


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("row", "column"), [(4, 4), (0, 0), (8, 8), (0, 8), (5, 2)])
def test_a_crop_is_of_the_image_padded_with_black_and_then_mirrored(
    synthetic: ImageDataset, row: int, column: int, mirrored: bool
) -> None:
    images = torch.from_numpy(synthetic.train_images[:3].copy())
    offsets = torch.tensor([[4, row, 0], [4, column, 8]])
    flags = torch.tensor([False, mirrored, True])

    found = crop_and_mirror(images, offsets, flags)

    assert torch.equal(found[0], images[0])
    assert torch.equal(found[1], cropped_by_hand(images[1], row, column, mirrored))
    assert torch.equal(found[2], cropped_by_hand(images[2], 0, 8, True))


def test_an_epoch_trains_on_every_image_once(make_spec: Any, synthetic: ImageDataset) -> None:
    spec = make_spec(augmentation="none", batch_size=24, drop_last=False)
    images, _ = joined(epoch(spec, synthetic))

    def rows(images: Tensor) -> set[bytes]:
        return {image.numpy().tobytes() for image in images}

    assert [len(labels) for _, labels in epoch(spec, synthetic)] == [24, 24, 16]
    assert len(rows(images)) == 64
    assert rows(images) == rows(joined(epoch(spec, synthetic, 2))[0])


def test_images_keep_their_labels(make_spec: Any, synthetic: ImageDataset) -> None:
    spec = make_spec(augmentation="none", dataset={"standardization": "symmetric"})
    images, labels = joined(epoch(spec, synthetic))
    pixels = ((images + 1) * 127.5).round().to(torch.uint8)
    label_of = {
        image.tobytes(): label for image, label in zip(synthetic.train_images, synthetic.train_labels, strict=True)
    }

    assert [label_of[image.numpy().tobytes()] for image in pixels] == labels.tolist()


def test_neither_order_nor_augmentation_depends_on_the_batch_size(make_spec: Any, synthetic: ImageDataset) -> None:
    images, labels = joined(epoch(make_spec(batch_size=16), synthetic))
    for batch_size in (1, 2, 32, 64):
        other_images, other_labels = joined(epoch(make_spec(batch_size=batch_size), synthetic))
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def test_batches_do_not_depend_on_the_size_of_chunks(
    make_spec: Any, synthetic: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = joined(epoch(make_spec(batch_size=4), synthetic))
    monkeypatch.setattr(batches, "CHUNK_IMAGES", 12)

    assert torch.equal(whole, joined(epoch(make_spec(batch_size=4), synthetic))[0])


@pytest.mark.parametrize("first_step", [0, 1, 3, 4])
def test_an_epoch_can_start_at_any_step(make_spec: Any, synthetic: ImageDataset, first_step: int) -> None:
    whole = epoch(make_spec(), synthetic)
    rest = epoch(make_spec(), synthetic, first_step=first_step)

    assert len(rest) == 4 - first_step
    for (images, labels), (other_images, other_labels) in zip(whole[first_step:], rest, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def test_seeds_and_epochs_differ_in_order_crops_and_mirroring(make_spec: Any) -> None:
    plans = [plan_epoch(make_spec(seed=seed), number) for seed, number in ((0, 1), (0, 2), (1, 1), (1, 2))]

    for name in ("order", "offsets", "mirrored"):
        drawn = {getattr(plan, name).numpy().tobytes() for plan in plans}
        assert len(drawn) == 4, name


def test_an_image_is_cropped_alike_in_any_order(make_spec: Any) -> None:
    plan = plan_epoch(make_spec(), 1)
    assert plan.offsets is not None
    by_image = plan.offsets[:, plan.order.argsort()]
    expected = torch.randint(9, (2, 64), generator=generator(7, "augmentation", 1))

    assert torch.equal(by_image, expected)


def test_crops_and_mirroring_are_uniform(make_spec: Any) -> None:
    plan = plan_epoch(make_spec(dataset={"train_limit": 9000}), 1)
    assert plan.offsets is not None
    assert plan.mirrored is not None

    for axis in plan.offsets:
        counts = torch.bincount(axis, minlength=9)
        # 1000 of each are expected; the tolerance is five standard deviations.
        assert len(counts) == 9
        assert (counts - 1000).abs().max() < 150
    assert abs(plan.mirrored.sum().item() - 4500) < 240


@pytest.mark.parametrize("standardization", ["channel", "symmetric"])
def test_pixels_are_standardized(make_spec: Any, synthetic: ImageDataset, standardization: str) -> None:
    spec = make_spec(augmentation="none", dataset={"standardization": standardization, "test_limit": 20})
    images, _ = joined(list(TrainingData(spec, synthetic).eval_batches()))
    pixels = synthetic.test_images[:20].astype(np.float64) / 255
    mean, deviation = CHANNEL_STATISTICS["synthetic"] if standardization == "channel" else ((0.5,) * 3, (0.5,) * 3)
    expected = (pixels - np.reshape(mean, (3, 1, 1))) / np.reshape(deviation, (3, 1, 1))

    assert images.dtype == torch.float32
    np.testing.assert_allclose(images.numpy(), expected, atol=2e-6)


def test_the_constants_are_the_mean_and_deviation_of_the_synthetic_training_images(synthetic: ImageDataset) -> None:
    pixels = synthetic.train_images / 255
    mean, deviation = CHANNEL_STATISTICS["synthetic"]

    assert pixels.mean((0, 2, 3)) == pytest.approx(mean, abs=1e-8)
    assert pixels.std((0, 2, 3)) == pytest.approx(deviation, abs=1e-8)


@pytest.mark.cifar10
def test_the_constants_are_the_mean_and_deviation_of_cifar10s_training_images(cifar10: ImageDataset) -> None:
    mean, deviation = CHANNEL_STATISTICS["cifar10"]
    for channel in range(3):
        pixels = cifar10.train_images[:, channel] / 255
        assert pixels.mean() == pytest.approx(mean[channel], abs=1e-8)
        assert pixels.std() == pytest.approx(deviation[channel], abs=1e-8)


def test_the_holdout_is_evaluated_on_unaugmented(make_spec: Any, synthetic: ImageDataset) -> None:
    spec = make_spec(dataset={"train_limit": 60, "holdout": 20, "standardization": "symmetric"}, batch_size=8)
    images, labels = joined(list(TrainingData(spec, synthetic).eval_batches("holdout")))
    pixels = ((images + 1) * 127.5).round().to(torch.uint8).numpy()

    # Labels of the synthetic dataset cycle through 0 to 9: the last two of six cycles are held out.
    np.testing.assert_array_equal(pixels, synthetic.train_images[40:60])
    assert labels.tolist() == [*range(10)] * 2


def test_every_split_that_has_images_is_evaluated(make_spec: Any, synthetic: ImageDataset) -> None:
    def splits(**dataset: int) -> list[tuple[str, int]]:
        data = TrainingData(make_spec(dataset={"train_limit": 60} | dataset, batch_size=8), synthetic)
        return [(split, data.num_images(split)) for split in data.splits]

    assert splits(test_limit=30) == [("test", 30)]
    assert splits(test_limit=30, holdout=20) == [("holdout", 20), ("test", 30)]
    assert splits(test_limit=0, holdout=20) == [("holdout", 20)]


def test_the_images_are_not_copied(make_spec: Any, synthetic: ImageDataset) -> None:
    held = TrainingData(make_spec(), synthetic)

    assert held._parts["train"][0].data_ptr() == synthetic.train_images.ctypes.data


def test_a_dataset_of_another_name_or_size_is_refused(make_spec: Any, synthetic: ImageDataset) -> None:
    with pytest.raises(DatasetError, match=r"cifar10 \(50000 \+ 10000 images\).*synthetic \(10000 \+ 2000 images\)"):
        TrainingData(make_spec(dataset={"name": "cifar10"}), synthetic)
    with pytest.raises(DatasetError, match="99 images"):
        TrainingData(make_spec(), dataclasses.replace(synthetic, test_images=synthetic.test_images[:99]))
