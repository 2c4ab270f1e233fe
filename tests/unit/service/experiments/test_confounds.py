"""Each confound is reported if and only if it exists, and its message contains the numbers."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.experiments.confounds import CODES, Candidate, Confound, lint
from worker.spec import TrainingSpec

BATCH = {"type": "batch"}
GROUP = {"type": "group", "channels_per_group": 8}
RENORM = {"type": "batch_renorm"}
GHOST = {"type": "batch", "ghost_batch_size": 16}
UNSCALED = {"rule": "none", "reference_batch_size": 32}


def spec(**given: Any) -> TrainingSpec:
    return TrainingSpec.model_validate({"normalization": GROUP, "batch_size": 32, "recipe": "wu-he"} | given)


def candidates(*specs: TrainingSpec) -> list[Candidate]:
    return [Candidate(f"job_{index}", one) for index, one in enumerate(specs)]


def study(**axes: Sequence[Any]) -> list[Candidate]:
    """Return the jobs of every combination, with two seeds by default."""
    axes = {"seed": (0, 1)} | axes
    return candidates(*(spec(**dict(zip(axes, values, strict=True))) for values in product(*axes.values())))


def found(code: str, jobs: Sequence[Candidate]) -> Confound | None:
    return next((confound for confound in lint(jobs) if confound.code == code), None)


def codes(jobs: Sequence[Candidate]) -> set[str]:
    return {confound.code for confound in lint(jobs)}


def test_a_sound_study_has_no_warnings() -> None:
    jobs = study(normalization=[BATCH, GROUP], model=["resnet20", "resnet56"])
    assert [(confound.code, confound.severity) for confound in lint(jobs)] == [("shared_hyperparameters", "note")]
    assert lint(study(normalization=[GROUP], model=["resnet20", "resnet56"])) == ()


@pytest.mark.parametrize("given", [{"label_smoothing": 0.1}, {"ema": {"decay": 0.9}}], ids=str)
def test_smoothing_or_an_average_of_one_row_only_is_confounded_with_the_row(given: dict[str, Any]) -> None:
    together = found("settings_change_together", candidates(spec(normalization=BATCH, **given), spec()))
    assert together is not None
    assert f"normalization and {next(iter(given))}" in together.detail
    assert not codes(study(**{name: [value] for name, value in given.items()}))


def test_an_empty_study_has_no_warnings() -> None:
    assert lint([]) == ()


def test_the_paper_has_a_note_on_unequal_steps_and_no_warnings() -> None:
    jobs = study(normalization=[BATCH, {"type": "group", "num_groups": 16}], batch_size=[32, 16, 8, 4, 2])

    assert [(confound.code, confound.severity) for confound in lint(jobs)] == [
        ("shared_hyperparameters", "note"),
        ("unequal_optimizer_steps", "note"),
        ("unequal_channels_per_group", "note"),
    ]


FINDINGS: dict[str, tuple[list[Candidate], str, list[int]]] = {
    "learning_rate_not_scaled": (
        study(batch_size=[2, 32], learning_rate_scaling=[UNSCALED], seed=[0]),
        "The learning rate is 0.1 at batch sizes 2 and 32 alike",
        [0, 1],
    ),
    "shared_hyperparameters": (
        study(normalization=[BATCH, GROUP], seed=[0]),
        "All normalizations have learning rate 0.1 and weight decay 0.0001, also of scales and shifts",
        [0, 1],
    ),
    "settings_change_together": (
        candidates(
            spec(normalization=BATCH, augmentation="none"),
            spec(normalization=GROUP, augmentation="crop_flip"),
        ),
        "These change together, not independently of each other: normalization and augmentation.",
        [0, 1],
    ),
    "several_label_smoothings": (
        study(label_smoothing=[0, 0.1], seed=[0]),
        "Jobs have label smoothing 0 and 0.1: a difference between them may be due to it",
        [0, 1],
    ),
    "several_weight_averages": (
        study(ema=[{"decay": 0.9}, None, {}], seed=[0]),
        "evaluated by the weights of the last step, averages with decay 0.9 and averages with decay 0.999:",
        [0, 1, 2],
    ),
    "average_over_unequal_images": (
        study(ema=[{}], batch_size=[4, 32], seed=[0]),
        "cover from 4,000 images (4 a step) to 32,000 images (32 a step), 1 / (1 - decay) steps each",
        [0, 1],
    ),
    "average_not_settled": (
        study(ema=[{}, {"decay": 0.9}], epochs=[1], dataset=[{"train_limit": 32_000}], seed=[0]),
        "After the 1,000 steps at batch size 32, 37 % of the average of the weights still consists of the initial",
        [0],
    ),
    "begins_with_a_checkpoint": (
        study(init_from=[None, "checkpoint_1"], seed=[0]),
        "Jobs begin with the weights of checkpoint_1, which are already trained; others begin with random weights.",
        [1],
    ),
    "unequal_optimizer_steps": (
        study(batch_size=[2, 32], seed=[0]),
        "Jobs take from 156,200 optimizer steps (batch size 32, 100 epochs) to 2,500,000 (batch size 2, 100 epochs).",
        [0, 1],
    ),
    "unequal_images_seen": (
        study(epochs=[10, 20], seed=[0]),
        "Jobs see from 500,000 to 1,000,000 training images",
        [0, 1],
    ),
    "several_evaluation_sets": (
        candidates(spec(), spec(dataset={"test_limit": 5_000})),
        "different images: 10,000 test images of cifar10 and 5,000 test images of cifar10.",
        [0, 1],
    ),
    "several_devices": (
        [replace(job, device=device) for job, device in zip(study(seed=[0, 1, 2]), ["cpu", "H200", None], strict=True)],
        "Jobs ran on different devices: cpu and H200.",
        [0, 1],
    ),
    "several_precisions": (
        [replace(job, precision=p) for job, p in zip(study(), ["float32", "bfloat16"], strict=True)],
        "ran in different precisions: float32 and bfloat16.",
        [0, 1],
    ),
    "several_versions": (
        [
            replace(job, versions=versions)
            for job, versions in zip(
                study(seed=[0, 1, 2]),
                [{"torch": "2.13.0", "numpy": "2"}, {"torch": "2.14.0", "numpy": "2"}, {}],
                strict=True,
            )
        ],
        "Jobs ran with different versions of the software: torch 2.13.0 and 2.14.0.",
        [0, 1],
    ),
    "single_seed": (study(normalization=[BATCH, GROUP], seed=[3]), "Every configuration has one seed only", [0, 1]),
    "repeated_job": (candidates(spec(), spec(seed=1), spec()), "2 jobs share configuration and seed", [0, 2]),
    "part_of_the_training_set": (
        candidates(spec(), spec(dataset={"train_limit": 5_000}), spec(dataset={"train_limit": 50_000})),
        "Jobs train on 5,000 of 50,000 training images",
        [1],
    ),
    "synthetic_images": (
        candidates(spec(dataset={"name": "synthetic"}), spec()),
        "The images are synthetic",
        [0],
    ),
    "batch_statistics_at_batch_1": (
        candidates(spec(normalization=BATCH, batch_size=1), spec(batch_size=1), spec(normalization=BATCH)),
        "At batch size 1 the statistics of batch are over a single image",
        [0],
    ),
    "running_averages_not_settled": (
        candidates(
            spec(normalization=BATCH, epochs=1, batch_size=5_000),
            spec(epochs=1, batch_size=5_000),
            spec(normalization=BATCH),
        ),
        "After the 10 steps at batch size 5000, 35 % of the running averages of batch still",
        [0],
    ),
    "renormalization_not_started": (
        candidates(
            spec(normalization=RENORM, epochs=1),
            spec(normalization=RENORM | {"ramp_start": 100}, epochs=1),
            spec(normalization=RENORM),
        ),
        "Training takes 1,562 steps at batch size 32, but batch_renorm is batch normalization",
        [0],
    ),
    "ghost_batch_larger_than_batch": (
        candidates(spec(normalization=GHOST, batch_size=8), spec(normalization=GHOST, batch_size=16)),
        "The ghost batch is 16 at batch size 8",
        [0],
    ),
    "partial_ghost_batch": (
        candidates(spec(normalization=GHOST, batch_size=40), spec(normalization=GHOST), spec(batch_size=40)),
        "holds 8 of 40 images (in chunks of 16)",
        [0],
    ),
    "partial_last_batch": (
        candidates(spec(batch_size=64, drop_last=False), spec(batch_size=64), spec(batch_size=50, drop_last=False)),
        "The last batch of an epoch has 16 of 64 images",
        [0],
    ),
    "unequal_channels_per_group": (
        candidates(
            spec(normalization={"type": "group", "num_groups": 4}), spec(), spec(normalization={"type": "layer"})
        ),
        "4 groups hold 4 to 16 channels in resnet20",
        [0],
    ),
    "few_values_per_statistic": (
        candidates(spec(normalization={"type": "instance"}, model="vgg"), spec(normalization={"type": "instance"})),
        "as few as 4 values in layer blocks.4.0.norm of vgg (instance)",
        [0],
    ),
}


@pytest.mark.parametrize("code", FINDINGS)
def test_what_is_there_is_found_with_its_numbers_and_jobs(code: str) -> None:
    jobs, sentence, about = FINDINGS[code]

    confound = found(code, jobs)

    assert confound is not None
    assert sentence in confound.detail
    assert confound.detail.endswith(".")
    assert confound.jobs == tuple(jobs[index].id for index in about)


def test_every_code_is_tested_and_stable() -> None:
    assert set(CODES) == set(FINDINGS)
    assert all(re.fullmatch("[a-z][a-z0-9_]*", code) for code in CODES)
    assert all(re.fullmatch(r"[A-Z].*[^.]\.", meaning) for meaning in CODES.values())


@pytest.mark.parametrize("code", FINDINGS)
def test_a_job_by_itself_is_warned_of_no_difference(code: str) -> None:
    between_jobs = list(CODES)[: list(CODES).index("part_of_the_training_set")]

    assert all(codes([job]).isdisjoint(between_jobs) for job in FINDINGS[code][0])


class TestTheLearningRate:
    def test_may_be_scaled_by_hand(self) -> None:
        by_hand = [
            spec(
                batch_size=size,
                optimizer={"type": "sgd", "learning_rate": 0.1 * size / 32},
                learning_rate_scaling=UNSCALED,
                seed=seed,
            )
            for size in (2, 32)
            for seed in (0, 1)
        ]
        assert codes(candidates(*by_hand)) == {"unequal_optimizer_steps"}

    def test_of_two_optimizers_is_not_one(self) -> None:
        jobs = candidates(
            spec(optimizer={"type": "sgd", "learning_rate": 0.1}, learning_rate_scaling=UNSCALED),
            spec(optimizer={"type": "adam", "learning_rate": 0.1}, learning_rate_scaling=UNSCALED, batch_size=2),
        )
        assert found("learning_rate_not_scaled", jobs) is None

    def test_that_goes_with_the_normalization_is_a_confound(self) -> None:
        jobs = candidates(
            *(
                spec(normalization=normalization, optimizer={"type": "sgd", "learning_rate": rate}, batch_size=size)
                for normalization, rate in ((BATCH, 0.1), (GROUP, 0.05))
                for size in (2, 32)
            )
        )
        confound = found("settings_change_together", jobs)
        assert confound is not None
        assert "normalization and optimizer.learning_rate" in confound.detail

    def test_that_is_tried_at_each_normalization_is_none(self) -> None:
        rates = [{"type": "sgd", "learning_rate": rate} for rate in (0.1, 0.05)]
        assert codes(study(normalization=[BATCH, GROUP], optimizer=rates)) == set()


class TestSettings:
    def test_that_are_crossed_are_no_confound(self) -> None:
        jobs = study(normalization=[BATCH, GROUP], batch_size=[2, 32], model=["resnet20", "vgg"], augmentation=["none"])
        assert found("settings_change_together", jobs) is None

    def test_that_go_along_are_named_together(self) -> None:
        jobs = candidates(spec(), spec(recipe="labml", batch_size=32))
        confound = found("settings_change_together", jobs)
        assert confound is not None
        named = confound.detail.partition(": ")[2]
        assert named.startswith("model, dataset.standardization, epochs, optimizer, schedule and drop_last.")

    def test_of_another_part_are_one_choice(self) -> None:
        """SGD has a momentum and Adam has betas, which belong to the choice of the optimizer."""
        optimizers = [{"type": "sgd"}, {"type": "adam"}]
        assert found("settings_change_together", study(normalization=[BATCH, GROUP], optimizer=optimizers)) is None

    def test_a_grid_with_holes_shows_itself(self) -> None:
        jobs = candidates(spec(normalization=BATCH), spec(normalization=GROUP), spec(normalization=GROUP, batch_size=2))
        assert found("settings_change_together", jobs) is None

    def test_that_decide_no_weights_do_not_count(self) -> None:
        jobs = candidates(
            spec(normalization=BATCH, checkpoint={"every_epochs": 2}), spec(normalization=GROUP, deterministic=True)
        )
        assert found("settings_change_together", jobs) is None


class TestSteps:
    def test_made_equal_by_the_epochs_leave_unequal_images(self) -> None:
        jobs = candidates(spec(batch_size=2, epochs=5), spec(batch_size=20, epochs=50))
        assert "unequal_optimizer_steps" not in codes(jobs)
        assert "unequal_images_seen" in codes(jobs)
        assert "settings_change_together" not in codes(jobs)

    def test_that_differ_by_what_is_dropped_are_equal(self) -> None:
        assert codes(candidates(spec(), spec(drop_last=False))) == {"single_seed", "partial_last_batch"}


class TestBatchStatistics:
    @pytest.mark.parametrize(
        ("given", "alone"),
        [
            ({"batch_size": 1}, True),
            ({"batch_size": 2}, False),
            ({"batch_size": 7, "drop_last": False, "dataset": {"train_limit": 50}}, True),
            ({"batch_size": 7, "drop_last": True, "dataset": {"train_limit": 50}}, False),
            ({"batch_size": 8, "drop_last": False, "dataset": {"train_limit": 50}}, False),
            ({"batch_size": 33, "normalization": GHOST}, True),
            ({"batch_size": 34, "normalization": GHOST}, False),
            ({"batch_size": 1, "normalization": GHOST}, True),
            ({"batch_size": 1, "normalization": GROUP}, False),
        ],
    )
    def test_are_over_one_image_wherever_one_is_left_over(self, given: dict[str, Any], alone: bool) -> None:
        jobs = candidates(spec(**({"normalization": BATCH} | given)))
        assert (found("batch_statistics_at_batch_1", jobs) is not None) == alone

    def test_settle_in_so_many_steps_as_the_momentum_says(self) -> None:
        """0.9 to the power of 43 is 0.0108, of 44 it is 0.0097."""
        jobs = [spec(normalization=BATCH, epochs=steps, batch_size=50_000) for steps in (43, 44)]
        assert [found("running_averages_not_settled", candidates(job)) is not None for job in jobs] == [True, False]


class TestPrecision:
    def test_that_jobs_ask_for_is_a_setting(self) -> None:
        jobs = study(normalization=[BATCH, GROUP], precision=["float32", "bfloat16"])
        ran = [replace(job, precision=job.spec.precision) for job in jobs]
        assert "several_precisions" not in codes(ran)

    def test_is_not_known_before_jobs_ran(self) -> None:
        assert found("several_precisions", study(seed=[0, 1, 2])) is None


def test_the_groups_of_a_fixed_size_are_equal() -> None:
    assert found("unequal_channels_per_group", candidates(spec(normalization=GROUP))) is None
    assert (
        found("unequal_channels_per_group", candidates(spec(normalization={"type": "group", "num_groups": 1}))) is None
    )


def test_long_lists_are_cut() -> None:
    jobs = study(batch_size=list(range(2, 20)), learning_rate_scaling=[UNSCALED])
    confound = found("learning_rate_not_scaled", jobs)
    assert confound is not None
    assert "batch sizes 2, 3, 4, 5, 6, 7 and 12 more alike" in confound.detail


SPECS = st.builds(
    spec,
    normalization=st.sampled_from([BATCH, GROUP, GHOST, {"type": "instance"}, {"type": "none"}]),
    batch_size=st.sampled_from([1, 2, 32, 33]),
    model=st.sampled_from(["resnet20", "vgg"]),
    recipe=st.sampled_from(["wu-he", "labml", None]),
    seed=st.integers(0, 2),
    drop_last=st.booleans(),
    learning_rate_scaling=st.sampled_from([UNSCALED, {"rule": "linear"}]),
)


@settings(deadline=None, max_examples=50)
@given(st.lists(SPECS, max_size=8))
def test_each_code_is_reported_once_in_order_with_its_jobs(specs: list[TrainingSpec]) -> None:
    jobs = candidates(*specs)

    told = lint(jobs)

    order = list(CODES)
    places = [order.index(confound.code) for confound in told]
    assert places == sorted(set(places))
    for confound in told:
        assert confound.jobs
        assert set(confound.jobs) <= {job.id for job in jobs}
        assert "{" not in confound.detail


class TestSeveralWorkers:
    """The images of a step are counted over all workers."""

    def test_a_rate_that_is_scaled_with_them_is_no_second_setting(self) -> None:
        assert codes(study(normalization=[BATCH, GROUP], num_workers=[1, 2, 4])) <= {
            "shared_hyperparameters",
            "unequal_optimizer_steps",
        }

    def test_a_rate_that_is_not_is_named(self) -> None:
        jobs = study(normalization=[BATCH, GROUP], num_workers=[1, 4], learning_rate_scaling=[UNSCALED])
        told = found("learning_rate_not_scaled", jobs)
        assert told is not None
        assert "batch sizes 32 and 128" in told.detail

    def test_shared_statistics_are_over_all_of_them(self) -> None:
        sync = {"type": "sync_batch"}
        assert "batch_statistics_at_batch_1" not in codes(study(normalization=[sync], batch_size=[1], num_workers=[2]))
        assert "batch_statistics_at_batch_1" in codes(study(normalization=[sync], batch_size=[1]))
        assert "batch_statistics_at_batch_1" in codes(study(normalization=[BATCH], batch_size=[1], num_workers=[2]))


def test_a_holdout_is_compared_with_other_holdouts_only() -> None:
    def found(*datasets: dict[str, int]) -> str:
        return "; ".join(
            one.detail
            for one in lint(candidates(*(spec(dataset=d) for d in datasets)))
            if one.code in ("several_evaluation_sets", "part_of_the_training_set")
        )

    assert found({}, {"holdout": 5_000}) == (
        "Jobs train on 45,000 of 50,000 training images: errors are higher than with all, and ranks may differ."
    )
    assert "5,000 held out training images of cifar10 and 100 held" in found({"holdout": 5_000}, {"holdout": 100})
