"""`python -m worker.checkpoints.export timm FILE --output FILE`: weights under the parameter names of other libraries.

timm and torchvision use the same names for the modules of a residual network: conv1, bn1, layer1 to layer4 of blocks
with conv1, bn1, conv2, bn2 and downsample, and fc. A normalization of any kind is called bn.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

STAGES = 4
_BLOCK = re.compile(r"stages\.(\d+)\.(\d+)\.(conv1|conv2|norm1|norm2|shortcut|shortcut_norm)\.(.+)")
_OUTSIDE = {"stem": "conv1", "stem_norm": "bn1", "classifier": "fc"}
_KNOWN = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
_INSIDE = {"norm1": "bn1", "norm2": "bn2", "shortcut": "downsample.0", "shortcut_norm": "downsample.1"}

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


class UnsupportedNetwork(ValueError):
    """The other library has no network of this shape."""


def timm_names(names: Iterable[str]) -> dict[str, str]:
    """Return the names that timm's `ResNet` gives to the weights of a `resnet18`.

    Args:
        names: The names of all weights of the network.

    Returns:
        timm's name for each of the given names.

    Raises:
        UnsupportedNetwork: If the names are not those of a `resnet18`.
    """
    ours = list(names)
    if other := sorted({name.rpartition(".")[2] for name in ours} - _KNOWN):
        raise UnsupportedNetwork(
            f"the normalization has the parameters {', '.join(other)}: timm has no such layer; "
            "only weight, bias and running averages have names in timm"
        )
    stages = {int(found[1]) for name in ours if (found := _BLOCK.fullmatch(name))}
    if not stages:
        raise UnsupportedNetwork("not the weights of a residual network: only those of resnet18 have names in timm")
    if stages != set(range(STAGES)):
        raise UnsupportedNetwork(
            f"the network has {len(stages)} stages and pads its shortcuts, as resnet20 and resnet56 do "
            "(He et al. 2015, section 4.2): timm has no such network; only the weights of resnet18 have names in timm"
        )
    return {name: _timm_name(name) for name in ours}


def _timm_name(name: str) -> str:
    if found := _BLOCK.fullmatch(name):
        stage, block, module, rest = found.groups()
        return f"layer{int(stage) + 1}.{block}.{_INSIDE.get(module, module)}.{rest}"
    module, _, rest = name.partition(".")
    return f"{_OUTSIDE[module]}.{rest}"


def rename_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under the names of timm."""
    return {name: weights[ours].contiguous() for ours, name in timm_names(weights).items()}


@app.callback()
def main() -> None:
    """Write weights under the names that other libraries use."""


@app.command()
def timm(
    file: Annotated[Path, typer.Argument(help="The model.safetensors of a checkpoint of a resnet18.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write to.")],
) -> None:
    """Write the weights of a resnet18 under the names of the ResNet of timm and torchvision."""
    try:
        with safe_open(file, framework="pt") as opened:
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dictionary
        save_file(rename_weights(weights), output)
    except (UnsupportedNetwork, OSError) as error:
        typer.echo(f"{file}: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{output}  {len(weights)} tensors")


if __name__ == "__main__":
    app()
