"""Exported weights load into a ResNet with the names of timm, which computes the same."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from worker.checkpoints.export import UnsupportedNetwork, app, timm_names
from worker.models import build_model
from worker.normalizations.batch import BatchNormalization
from worker.normalizations.group import GroupNormalization
from worker.normalizations.none import NoNormalization
from worker.normalizations.registry import Normalization
from worker.normalizations.switchable import SwitchableNormalization


class BasicBlock(nn.Module):
    """A basic block as timm and torchvision define it."""

    def __init__(self, inplanes: int, planes: int, stride: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = norm(planes)
        self.downsample: nn.Module | None = None
        if stride != 1 or inplanes != planes:
            convolution = nn.Conv2d(inplanes, planes, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(convolution, norm(planes))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet(nn.Module):
    """resnet18 with the names of timm and torchvision and the stem for 32×32 images."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = norm(64)
        widths = (64, 64, 128, 256, 512)
        for stage in range(1, 5):
            first = BasicBlock(widths[stage - 1], widths[stage], 1 if stage == 1 else 2, norm)
            second = BasicBlock(widths[stage], widths[stage], 1, norm)
            setattr(self, f"layer{stage}", nn.Sequential(first, second))
        self.fc = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class EightGroups(nn.GroupNorm):
    """torch's own group normalization."""

    def __init__(self, num_channels: int) -> None:
        super().__init__(8, num_channels)


def trained(normalization: Normalization) -> nn.Module:
    """A network whose parameters are all changed, so that none is 0 or 1."""
    network = build_model("resnet18", normalization, seed=1)
    generator = torch.Generator().manual_seed(2)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand(tensor.shape, generator=generator), alpha=0.02)
    return network.eval()


@pytest.mark.parametrize(
    ("normalization", "norm"),
    [(GroupNormalization(num_groups=8), EightGroups), (BatchNormalization(), nn.BatchNorm2d)],
    ids=["group", "batch"],
)
def test_a_network_with_timms_names_computes_the_same(
    tmp_path: Path, normalization: Normalization, norm: type[nn.Module]
) -> None:
    ours = trained(normalization)
    save_file({name: tensor.contiguous() for name, tensor in ours.state_dict().items()}, tmp_path / "model.safetensors")
    ended = CliRunner().invoke(
        app, ["timm", f"{tmp_path}/model.safetensors", "--output", f"{tmp_path}/timm.safetensors"]
    )
    assert ended.exit_code == 0, ended.output
    theirs = ResNet(norm).eval()
    theirs.load_state_dict(load_file(tmp_path / "timm.safetensors"), strict=True)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(theirs(images), ours(images), rtol=1e-4, atol=1e-4)


def test_the_names_of_every_weight_are_those_of_timm() -> None:
    names = timm_names(build_model("resnet18", GroupNormalization(), seed=0).state_dict())
    assert set(names.values()) == set(ResNet(EightGroups).state_dict())
    assert names["stages.1.0.shortcut_norm.weight"] == "layer2.0.downsample.1.weight"


@pytest.mark.parametrize(
    ("model", "said"),
    [("resnet20", "3 stages and pads its shortcuts"), ("vgg", "not the weights of a residual network")],
)
def test_a_network_without_a_counterpart_is_refused(tmp_path: Path, model: str, said: str) -> None:
    network = build_model(model, NoNormalization(), seed=0)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedNetwork, match=said):
        timm_names(network.state_dict())
    file = tmp_path / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, file)
    ended = CliRunner().invoke(app, ["timm", str(file), "-o", str(tmp_path / "out")])
    assert (ended.exit_code, said in ended.output, (tmp_path / "out").exists()) == (1, True, False)


def test_a_normalization_that_timm_does_not_have_is_refused() -> None:
    network = build_model("resnet18", SwitchableNormalization(), seed=0)
    with pytest.raises(UnsupportedNetwork, match="has the parameters mean_weight, var_weight: timm has no such layer"):
        timm_names(network.state_dict())


def test_a_missing_file_is_reported_in_a_sentence(tmp_path: Path) -> None:
    ended = CliRunner().invoke(app, ["timm", str(tmp_path / "none"), "-o", str(tmp_path / "out")])
    assert (ended.exit_code, ended.exception.__class__) == (1, SystemExit)
    assert "No such file" in ended.output
