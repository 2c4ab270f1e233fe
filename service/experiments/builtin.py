"""The experiments that come with normlab, by name.

Each but `zoo` stands in for an experiment of Wu & He, *Group Normalization* (2018, arXiv 1803.08494), or of labml.ai's
annotated implementation. The paper trains ResNet-50 on ImageNet with 32 groups; on CIFAR-10 resnet20 stands in for it,
whose narrowest layers have 16 channels, with 8 groups unless the experiment is about their number.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from worker.architecture import ARCHITECTURES, ModelName
from worker.normalizations.registry import NORMALIZATIONS

Json = dict[str, Any]
StudyName = Literal["paper-batch-size", "paper-groups", "paper-norms", "labml", "zoo"]

SEEDS = [0, 1, 2, 3, 4]


@dataclass(frozen=True)
class Study:
    """The fields that a built-in experiment adds to a request."""

    title: str
    grid: Json
    outcome: Json


@dataclass(frozen=True)
class BuiltIn:
    """A built-in experiment; its grid may follow from the model."""

    title: str
    description: str
    base: Json
    grid: Callable[[ModelName], Json]
    outcome: Json = field(default_factory=dict)

    def of(self, base: Mapping[str, Any]) -> Study:
        """Return the experiment on the model of `base`; on its default model if `base` names no known one."""
        model = base.get("model")
        known = model if isinstance(model, str) and model in ARCHITECTURES else self.base["model"]
        return Study(self.title, {**self.grid(cast(ModelName, known)), "seed": list(SEEDS)}, dict(self.outcome))


def _batch_sizes(_model: ModelName) -> Json:
    return {"normalization": [{"type": "batch"}, {"type": "group"}], "batch_size": [32, 16, 8, 4, 2]}


def _groups(model: ModelName) -> Json:
    """Table 3 of the paper, as far as its numbers divide the channels of every layer."""
    channels = [layer.num_channels for layer in ARCHITECTURES[model].feature_maps()]
    accepted = [number for number in (64, 32, 16, 8, 4, 2, 1) if all(count % number == 0 for count in channels)]
    by_number = [{"type": "group", "num_groups": number} for number in accepted]
    by_size = [{"type": "group", "channels_per_group": number} for number in accepted]
    return {"normalization": [*by_number, *by_size], "batch_size": [32]}


def _norms(_model: ModelName) -> Json:
    kinds = ("batch", "layer", "instance", "group")
    return {"normalization": [{"type": kind} for kind in kinds], "batch_size": [32]}


def _labml(_model: ModelName) -> Json:
    norms: list[Json] = [{"type": "batch"}, {"type": "group", "num_groups": 16}, {"type": "instance"}]
    return {"normalization": norms, "batch_size": [64]}


def _zoo(_model: ModelName) -> Json:
    """Every normalization; with one worker, sync_batch is batch."""
    norms = [{"type": name, **_ZOO.get(name, {})} for name in NORMALIZATIONS if name != "sync_batch"]
    return {"normalization": norms, "batch_size": [32, 2]}


_ZOO: dict[str, Json] = {"batch_renorm": {"ramp_start": 500, "r_ramp_end": 4_000, "d_ramp_end": 2_500}}
"""Parameters other than the defaults. The schedule of Ioffe 2017, of some 100,000 steps, is ten times as long."""

PAPER: Json = {"recipe": "wu-he", "model": "resnet20"}
AS_IN_THE_PAPER: Json = {"statistic": "median_last_5"}

STUDIES: dict[StudyName, BuiltIn] = {
    "paper-batch-size": BuiltIn(
        "BatchNorm and GroupNorm from 32 to 2 images",
        "Table 2 and figure 1 of the paper: the error of BatchNorm rises at small batches, that of GroupNorm does not.",
        PAPER,
        _batch_sizes,
        AS_IN_THE_PAPER,
    ),
    "paper-groups": BuiltIn(
        "How many groups, or how large",
        "Table 3 of the paper: the number of groups, and the number of channels of a group, at 32 images.",
        PAPER,
        _groups,
        AS_IN_THE_PAPER,
    ),
    "paper-norms": BuiltIn(
        "Four normalizations at 32 images",
        "Table 1 of the paper: batch, layer, instance and group normalization where the batch is large enough for all.",
        PAPER,
        _norms,
        AS_IN_THE_PAPER,
    ),
    "labml": BuiltIn(
        "labml.ai's CIFAR-10 experiments",
        "Batch, group (16 groups) and instance normalization in its VGG: Adam at 2.5e-4, batches of 64, ten epochs.",
        {"recipe": "labml", "model": "vgg"},
        _labml,
    ),
    "zoo": BuiltIn(
        "Every normalization at 32 and at 2 images",
        "All normalizations with the recipe of the paper and a warm-up of one epoch, which some of them need.",
        {**PAPER, "schedule": {"type": "multistep", "warmup_epochs": 1.0}},
        _zoo,
        AS_IN_THE_PAPER,
    ),
}
