"""A spec is complete, survives JSON and agrees with the papers; an invalid one is refused with the accepted values."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from worker.normalizations.group import GroupNormalization
from worker.normalizations.registry import NORMALIZATIONS
from worker.recipes import RECIPES
from worker.spec import DATASET_SIZES, TrainingSpec

MINIMAL: dict[str, Any] = {"normalization": {"type": "group"}, "batch_size": 2}


def spec(**given: Any) -> TrainingSpec:
    return TrainingSpec.model_validate(MINIMAL | given)


def test_only_the_normalization_and_the_batch_size_are_required() -> None:
    with pytest.raises(ValidationError) as refusal:
        TrainingSpec.model_validate({})
    assert {error["loc"] for error in refusal.value.errors()} == {("normalization",), ("batch_size",)}
    assert spec().model == "resnet20"


def test_the_defaults_are_those_of_the_documentation() -> None:
    assert spec(normalization={"type": "group", "num_groups": 8}).model_dump(mode="json") == {
        "recipe": None,
        "model": "resnet20",
        "normalization": {"type": "group", "num_groups": 8, "channels_per_group": None, "eps": 1e-5, "affine": True},
        "batch_size": 2,
        "epochs": 30,
        "seed": 0,
        "optimizer": {
            "type": "sgd",
            "learning_rate": 0.1,
            "momentum": 0.9,
            "nesterov": False,
            "weight_decay": 1e-4,
        },
        "learning_rate_scaling": {"rule": "linear", "reference_batch_size": 32},
        "schedule": {"type": "multistep", "warmup_epochs": 0.0, "milestones": [0.5, 0.75], "gamma": 0.1},
        "dataset": {
            "name": "cifar10",
            "train_limit": None,
            "test_limit": None,
            "holdout": 0,
            "standardization": "channel",
        },
        "augmentation": "crop_flip",
        "init_from": None,
        "label_smoothing": 0.0,
        "ema": None,
        "drop_last": True,
        "precision": "auto",
        "num_workers": 1,
        "checkpoint": {"every_epochs": 1, "every_s": None, "keep_last": 2},
        "telemetry": None,
        "deterministic": False,
    }


def test_the_recipe_of_labml_has_the_numbers_of_its_experiment() -> None:
    recipe = TrainingSpec.model_validate({"recipe": "labml", "normalization": {"type": "group", "num_groups": 16}})
    assert (recipe.model, recipe.batch_size, recipe.epochs) == ("vgg", 64, 10)
    assert recipe.optimizer.model_dump() == {
        "type": "adam",
        "learning_rate": 2.5e-4,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
    }
    assert recipe.scaled_learning_rate == 2.5e-4
    assert (recipe.schedule.type, recipe.schedule.warmup_epochs) == ("constant", 0)
    assert (recipe.dataset.name, recipe.dataset.standardization) == ("cifar10", "symmetric")
    assert recipe.augmentation == "crop_flip"
    assert recipe.steps_per_epoch == 782, "50,000 images in batches of 64, the last one smaller"


def test_the_recipe_of_wu_and_he_has_the_numbers_of_the_paper() -> None:
    recipe = TrainingSpec.model_validate({"recipe": "wu-he", "normalization": {"type": "group"}})
    assert (recipe.batch_size, recipe.epochs) == (32, 100)
    assert recipe.optimizer.model_dump() == {
        "type": "sgd",
        "learning_rate": 0.1,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 1e-4,
    }
    assert recipe.schedule.model_dump() == {
        "type": "multistep",
        "warmup_epochs": 0.0,
        "milestones": (0.3, 0.6, 0.9),
        "gamma": 0.1,
    }
    assert [int(fraction * recipe.epochs) for fraction in (0.3, 0.6, 0.9)] == [30, 60, 90]
    for batch_size, rate in ((32, 0.1), (16, 0.05), (8, 0.025), (4, 0.0125), (2, 0.00625)):
        given = {"recipe": "wu-he", "normalization": {"type": "batch"}, "batch_size": batch_size}
        assert TrainingSpec.model_validate(given).scaled_learning_rate == pytest.approx(rate)


@pytest.mark.parametrize("rule", ["linear", "none"])
def test_workers_take_the_steps_at_the_rate_of_one_with_the_whole_batch(rule: str) -> None:
    given = {"learning_rate_scaling": {"rule": rule}, "dataset": {"train_limit": 1000}}
    several, one = spec(batch_size=8, num_workers=4, **given), spec(batch_size=32, **given)
    assert several.global_batch_size == one.global_batch_size == 32
    assert several.steps_per_epoch == one.steps_per_epoch == 31
    assert several.scaled_learning_rate == one.scaled_learning_rate


def test_the_eight_workers_of_wu_and_he_have_their_rate() -> None:
    given = {"recipe": "wu-he", "num_workers": 8, "learning_rate_scaling": {"reference_batch_size": 256}}
    for batch_size, rate in ((32, 0.1), (16, 0.05), (2, 0.00625)):
        assert spec(**given, batch_size=batch_size).scaled_learning_rate == pytest.approx(rate)


@pytest.mark.parametrize("recipe", RECIPES)
def test_given_fields_override_the_recipe(recipe: str) -> None:
    given = {"model": "resnet56", "batch_size": 4, "epochs": 2, "augmentation": "none", "drop_last": False}
    made = spec(recipe=recipe, **given)
    assert made.model_dump(include=set(given)) == given
    assert spec(recipe=recipe, drop_last=True).drop_last


def test_a_partly_given_part_is_filled_from_the_recipe() -> None:
    made = spec(recipe="labml", optimizer={"learning_rate": 1e-3}, dataset={"train_limit": 100})
    assert made.optimizer.type == "adam"
    assert made.optimizer.learning_rate == 1e-3
    assert (made.dataset.train_limit, made.dataset.standardization) == (100, "symmetric")
    made = spec(recipe="wu-he", schedule={"warmup_epochs": 5})
    assert made.schedule.model_dump()["milestones"] == (0.3, 0.6, 0.9)


def test_a_part_of_another_type_keeps_nothing_of_the_recipe() -> None:
    made = spec(recipe="labml", optimizer={"type": "sgd"}, schedule={"type": "cosine"})
    assert made.optimizer == spec().optimizer
    assert made.schedule.model_dump() == {"type": "cosine", "warmup_epochs": 0.0, "final_fraction": 0.0}


def test_a_recipe_is_not_changed_by_its_use() -> None:
    before = json.dumps(RECIPES)
    spec(recipe="labml", optimizer={"learning_rate": 1}, dataset={"holdout": 5})
    assert json.dumps(RECIPES) == before


def test_groups_are_given_as_a_number_or_by_their_channels() -> None:
    def groups(num_channels: int, **given: int) -> int:
        normalization = spec(normalization={"type": "group", **given}).normalization
        assert isinstance(normalization, GroupNormalization)
        return normalization.groups(num_channels)

    assert groups(64) == 8
    assert groups(64, num_groups=16) == 16
    assert groups(64, channels_per_group=16) == 4


@pytest.mark.parametrize(
    ("given", "pointer", "sentence"),
    [
        (
            {"normalization": {"type": "group", "num_groups": 3}},
            ("normalization",),
            "num_groups is 3, which does not divide the 16 channels of resnet20's layer stem_norm: "
            "give one of 1, 2, 4, 8, 16",
        ),
        (
            {"normalization": {"type": "group", "num_groups": 32}},
            ("normalization",),
            "num_groups is 32, which does not divide the 16 channels of resnet20's layer stem_norm: "
            "give one of 1, 2, 4, 8, 16",
        ),
        (
            {"model": "vgg", "normalization": {"type": "group", "channels_per_group": 48}},
            ("normalization",),
            "channels_per_group is 48, which does not divide the 64 channels of vgg's layer blocks.0.0.norm: "
            "give one of 1, 2, 4, 8, 16, 32, 64",
        ),
        (
            {"normalization": {"type": "group", "num_groups": 4, "channels_per_group": 4}},
            ("normalization", "group"),
            "num_groups (4) and channels_per_group (4) exclude each other: give one",
        ),
        (
            {"optimizer": {"type": "sgd", "momentum": 0, "nesterov": True}},
            ("optimizer", "sgd"),
            "nesterov is true, but momentum is 0: give a momentum above 0",
        ),
        (
            {"schedule": {"type": "multistep", "milestones": [0.5, 0.5]}},
            ("schedule", "multistep", "milestones"),
            "milestones must increase, as in [0.5, 0.75]",
        ),
        (
            {"dataset": {"train_limit": 50_001}},
            ("dataset",),
            "train_limit is 50001, but cifar10 has 50000 images: give at most 50000, or null for all",
        ),
        (
            {"dataset": {"name": "synthetic", "test_limit": 2001}},
            ("dataset",),
            "test_limit is 2001, but synthetic has 2000 images: give at most 2000, or null for all",
        ),
        (
            {"dataset": {"train_limit": 100, "holdout": 100}},
            ("dataset",),
            "holdout is 100, which leaves none of 100 training images: give at most 99",
        ),
        (
            {"dataset": {"test_limit": 0}},
            ("dataset",),
            "test_limit is 0, which leaves no image to evaluate: give at least 1, null for all, or a holdout",
        ),
        (
            {"batch_size": 90, "dataset": {"train_limit": 100, "holdout": 20}},
            ("batch_size",),
            "batch_size is 90, larger than the 80 training images: give a batch_size of at most 80, or more images",
        ),
        ({"batch_size": 0}, ("batch_size",), "Input should be greater than or equal to 1"),
        ({"batch_size": 2.5}, ("batch_size",), "Input should be a valid integer, got a number with a fractional part"),
        ({"epochs": 10_001}, ("epochs",), "Input should be less than or equal to 10000"),
        ({"seed": 2**63}, ("seed",), "Input should be less than 9223372036854775808"),
        ({"num_workers": 65}, ("num_workers",), "Input should be less than or equal to 64"),
        (
            {"num_workers": 2, "drop_last": False},
            ("num_workers",),
            "num_workers is 2, but drop_last is false: all batches must be of equal size, so give drop_last true",
        ),
        (
            {"num_workers": 4, "batch_size": 30, "dataset": {"train_limit": 100}},
            ("num_workers",),
            "num_workers is 4, whose batches of 30 exceed the 100 training images: give at most 3 workers",
        ),
        ({"optimizer": {"type": "sgd", "learning_rate": float("nan")}}, None, "Input should be a finite number"),
        ({"optimizer": {"type": "adam", "betas": [0.9, 1]}}, ("optimizer", "adam", "betas", 1), "less than 1"),
        ({"model": "resnet50"}, ("model",), "Input should be 'resnet20', 'resnet56', 'resnet18' or 'vgg'"),
        ({"recipe": "airbench"}, ("recipe",), "Input should be 'labml' or 'wu-he'"),
        (
            {"normalization": {"type": "weight"}},
            ("normalization",),
            f"does not match any of the expected tags: {', '.join(map(repr, NORMALIZATIONS))}",
        ),
        ({"normalization": {}}, ("normalization",), "Unable to extract tag using discriminator 'type'"),
        (
            {"normalization": {"type": "batch", "ghost_batch_size": 1}},
            ("normalization", "batch", "ghost_batch_size"),
            "Input should be greater than or equal to 2",
        ),
        ({"normalization": {"type": "none", "eps": 1}}, ("normalization", "none", "eps"), "Extra inputs are not"),
        ({"learningrate": 1}, ("learningrate",), "Extra inputs are not permitted"),
    ],
)
def test_an_error_names_the_field_the_value_and_the_accepted_values(
    given: dict[str, Any], pointer: tuple[str | int, ...] | None, sentence: str
) -> None:
    with pytest.raises(ValidationError) as refusal:
        spec(**given)
    (error,) = refusal.value.errors()
    assert sentence in error["msg"]
    assert pointer is None or error["loc"] == pointer


def test_steps_count_whole_batches_unless_told_otherwise() -> None:
    small = {"name": "synthetic", "train_limit": 100, "holdout": 30}
    assert spec(batch_size=32, dataset=small).steps_per_epoch == 2
    assert spec(batch_size=32, dataset=small, drop_last=False).steps_per_epoch == 3
    assert spec(batch_size=35, dataset=small, drop_last=False).steps_per_epoch == 2
    made = spec(batch_size=32, dataset=small, epochs=7)
    assert made.total_steps == 14
    assert (made.dataset.num_train, made.dataset.num_test, made.dataset.num_eval) == (70, 2000, 2030)
    assert spec().dataset.num_eval == DATASET_SIZES["cifar10"][1]


def test_the_learning_rate_follows_the_batch_size_only_where_asked() -> None:
    unscaled = {"rule": "none", "reference_batch_size": 32}
    assert spec(batch_size=2).scaled_learning_rate == pytest.approx(0.1 * 2 / 32)
    assert spec(batch_size=2, learning_rate_scaling=unscaled).scaled_learning_rate == 0.1


def test_a_spec_does_not_change() -> None:
    made = spec()
    with pytest.raises(ValidationError):
        made.epochs = 3  # type: ignore[misc]


VALID_NORMALIZATIONS = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["batch", "layer", "instance"])}, optional={"affine": st.booleans()}
    ),
    st.just({"type": "none"}),
    st.fixed_dictionaries({"type": st.just("group"), "num_groups": st.sampled_from([1, 2, 4, 8, 16])}),
    st.fixed_dictionaries({"type": st.just("group"), "channels_per_group": st.sampled_from([1, 2, 4, 8, 16])}),
)
VALID = st.fixed_dictionaries(
    {"normalization": VALID_NORMALIZATIONS, "batch_size": st.integers(1, 64)},
    optional={
        "recipe": st.sampled_from(["labml", "wu-he"]),
        "model": st.sampled_from(["resnet20", "resnet56", "resnet18", "vgg"]),
        "epochs": st.integers(1, 10_000),
        "seed": st.integers(0, 2**63 - 1),
        "optimizer": st.one_of(
            st.fixed_dictionaries({"type": st.just("sgd")}, optional={"momentum": st.floats(0, 0.99)}),
            st.fixed_dictionaries({"type": st.just("adam")}, optional={"learning_rate": st.floats(1e-9, 1e3)}),
        ),
        "schedule": st.one_of(
            st.just({"type": "cosine"}),
            st.fixed_dictionaries({"type": st.just("constant")}, optional={"warmup_epochs": st.floats(0, 10)}),
            st.just({"type": "multistep", "milestones": []}),
        ),
        "dataset": st.fixed_dictionaries(
            {"name": st.sampled_from(["cifar10", "synthetic"])},
            optional={"train_limit": st.integers(128, 10_000), "holdout": st.integers(0, 64)},
        ),
        "drop_last": st.booleans(),
    },
)


@given(VALID)
def test_a_valid_spec_survives_json_and_trains_at_least_a_step(given: dict[str, Any]) -> None:
    made = TrainingSpec.model_validate(given)
    assert TrainingSpec.model_validate_json(made.model_dump_json()) == made
    assert TrainingSpec.model_validate(json.loads(json.dumps(made.model_dump(mode="json")))) == made
    assert made.total_steps >= 1
    assert made.scaled_learning_rate > 0


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(TrainingSpec.model_fields)), JSON_VALUES), VALID)
def test_anything_else_is_refused_and_nothing_crashes(nonsense: dict[str, Any], valid: dict[str, Any]) -> None:
    for candidate in (nonsense, valid | nonsense):
        try:
            made = TrainingSpec.model_validate(candidate)
        except ValidationError:
            continue
        assert made.total_steps >= 1
