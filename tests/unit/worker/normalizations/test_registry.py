"""A normalization is one file, which the registry finds, and which says what the rest of the project has to know."""

import json
from pathlib import Path
from typing import Any

import pytest

import worker.normalizations
from tests.unit.worker.normalizations.definitions import specification
from worker.normalizations.registry import NORMALIZATIONS
from worker.spec import TrainingSpec

HERE = Path(__file__).parent
EARLIER = {
    "batch": '{"type":"batch","eps":1e-05,"momentum":0.1,"affine":true,"ghost_batch_size":null}',
    "sync_batch": '{"type":"sync_batch","eps":1e-05,"momentum":0.1,"affine":true}',
    "layer": '{"type":"layer","eps":1e-05,"affine":true}',
    "instance": '{"type":"instance","eps":1e-05,"affine":true}',
    "group": '{"type":"group","num_groups":8,"channels_per_group":null,"eps":1e-05,"affine":true}',
    "none": '{"type":"none"}',
}
"""As jobs of the first version are stored."""


def test_every_file_is_a_normalization_or_has_another_known_purpose() -> None:
    files = {path.stem for path in Path(worker.normalizations.__path__[0]).glob("*.py")}
    bases = {"evonorm", "grouping", "normalization", "weight_standardization"}
    assert files == {*NORMALIZATIONS, *bases, "__init__", "layers", "registry"}


def test_every_normalization_has_a_test_of_its_definition() -> None:
    assert {kind for kind in NORMALIZATIONS if not (HERE / f"test_{kind}.py").exists()} == set(EARLIER)


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_a_normalization_says_what_it_is_what_it_needs_and_who_published_it(kind: str) -> None:
    normalization = NORMALIZATIONS[kind]
    assert (normalization.__doc__ or "").splitlines()[0].endswith(".")
    assert normalization.needs.startswith("Needs ")
    assert normalization.needs.endswith(".")
    assert "arXiv" in normalization.reference
    assert all(field.description for name, field in normalization.model_fields.items() if name != "type")
    assert normalization.model_json_schema()["description"].endswith(normalization.needs)


@pytest.mark.parametrize("kind", EARLIER)
def test_what_was_stored_before_is_read_without_a_change(kind: str) -> None:
    stored = json.loads(EARLIER[kind])
    read = specification(stored).model_dump(mode="json")
    assert (read, list(read)) == (stored, list(stored))


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_its_defaults_make_a_job(kind: str) -> None:
    spec = TrainingSpec.model_validate({"normalization": {"type": kind}, "batch_size": 2})
    assert type(spec.normalization) is NORMALIZATIONS[kind]
    assert TrainingSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("given", "images", "kept"),
    [
        ({"type": "batch"}, 8, 0.9),
        ({"type": "batch", "ghost_batch_size": 4}, 4, 0.9),
        ({"type": "sync_batch"}, 16, 0.9),
        ({"type": "batch_channel_ws"}, 80, 0.9),
        ({"type": "online"}, 1000, 0.999**8),
        ({"type": "group"}, None, None),
    ],
)
def test_it_says_how_many_images_share_statistics_and_how_fast_averages_change(
    given: dict[str, Any], images: int | None, kept: float | None
) -> None:
    normalization = specification(given)
    assert normalization.images_together(8, 2) == images
    assert normalization.kept_per_step(8) == (None if kept is None else pytest.approx(kept))
