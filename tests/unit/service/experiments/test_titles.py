"""The title of a job is readable, and contains every setting in which two jobs differ."""

from typing import Any

import pytest

from service.experiments.titles import job_title, with_datasets
from worker.spec import TrainingSpec


def spec(**fields: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"normalization": {"type": "group"}, "batch_size": 2} | fields
    return TrainingSpec.model_validate(given).model_dump(mode="json")


@pytest.mark.parametrize(
    ("name", "fields", "title"),
    [
        ("gn", {}, "gn"),
        ("", {}, "group (8), batch size 2, model resnet20, seed 0"),
        (
            "",
            {"normalization": {"type": "batch", "ghost_batch_size": 2}, "batch_size": 16, "seed": 3},
            "batch (ghost batches of 2), batch size 16, model resnet20, seed 3",
        ),
        ("gn", {"dataset": {"name": "synthetic"}}, "gn [synthetic]"),
        ("a synthetic run", {"dataset": {"name": "synthetic"}}, "a synthetic run"),
    ],
)
def test_a_job_is_named_for_people(name: str, fields: dict[str, Any], title: str) -> None:
    assert job_title(name, spec(**fields)) == title


@pytest.mark.parametrize(
    ("datasets", "title"),
    [
        ([], "norms"),
        (["cifar10"], "norms"),
        (["cifar10", "synthetic"], "norms [synthetic]"),
        (["norms", "other", "synthetic"], "norms [other, synthetic]"),
    ],
)
def test_a_title_names_datasets_other_than_cifar10(datasets: list[str], title: str) -> None:
    assert with_datasets("norms", datasets) == title


@pytest.mark.parametrize(
    "parameter", [{"ghost_batch_size": 1 << 4}, {"momentum": 0.2}, {"eps": 1e-3}, {"affine": False}]
)
def test_two_jobs_that_differ_in_a_parameter_of_the_normalization_have_two_titles(parameter: dict[str, Any]) -> None:
    plain = job_title("", spec(normalization={"type": "batch"}, batch_size=32))
    other = job_title("", spec(normalization={"type": "batch"} | parameter, batch_size=32))
    assert plain != other


def test_a_spec_of_an_older_release_has_a_title_too() -> None:
    assert job_title("", {"normalization": {"type": "old"}, "batch_size": 4}) == (
        "old, batch size 4, model null, seed null"
    )
