"""The architectures have the layers of the papers."""

import pytest

from worker.architecture import ARCHITECTURES, FeatureMap, ModelName


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        ("resnet20", 1 + 2 * 9),
        ("resnet56", 1 + 2 * 27),
        ("resnet18", 1 + 2 * 8 + 3),
        ("vgg", 13),
    ],
)
def test_each_model_normalizes_every_convolution(model: ModelName, layers: int) -> None:
    maps = ARCHITECTURES[model].feature_maps()
    assert len(maps) == layers
    assert len({feature_map.layer for feature_map in maps}) == layers


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        ("resnet20", {(16, 32), (32, 16), (64, 8)}),
        ("resnet56", {(16, 32), (32, 16), (64, 8)}),
        ("resnet18", {(64, 32), (128, 16), (256, 8), (512, 4)}),
        ("vgg", {(64, 32), (128, 16), (256, 8), (512, 4), (512, 2)}),
    ],
)
def test_each_stage_halves_the_image(model: ModelName, shapes: set[tuple[int, int]]) -> None:
    assert {(m.num_channels, m.size) for m in ARCHITECTURES[model].feature_maps()} == shapes


def test_layers_are_named_in_the_order_of_the_forward_pass() -> None:
    assert list(ARCHITECTURES["resnet18"].feature_maps())[:3] == [
        FeatureMap("stem_norm", 64, 32),
        FeatureMap("stages.0.0.norm1", 64, 32),
        FeatureMap("stages.0.0.norm2", 64, 32),
    ]
    assert "stages.1.0.shortcut_norm" in [m.layer for m in ARCHITECTURES["resnet18"].feature_maps()]
    assert [m.layer for m in ARCHITECTURES["vgg"].feature_maps()][-1] == "blocks.4.2.norm"


def test_no_layer_has_statistics_of_a_single_value() -> None:
    for architecture in ARCHITECTURES.values():
        assert min(feature_map.size for feature_map in architecture.feature_maps()) ** 2 > 1
