"""Recipes: the hyperparameters of a publication, as defaults for the fields that a job does not give."""

from copy import deepcopy
from typing import Any, Literal

RecipeName = Literal["labml", "wu-he"]

RECIPES: dict[RecipeName, dict[str, Any]] = {
    # labml.ai's CIFAR-10 experiment: VGG, Adam with learning rate 2.5e-4, batch size 64, ten epochs, images in [-1, 1].
    "labml": {
        "model": "vgg",
        "batch_size": 64,
        "epochs": 10,
        "optimizer": {
            "type": "adam",
            "learning_rate": 2.5e-4,
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 0.0,
        },
        "learning_rate_scaling": {"rule": "none", "reference_batch_size": 64},
        "schedule": {"type": "constant", "warmup_epochs": 0.0},
        "dataset": {"name": "cifar10", "standardization": "symmetric"},
        "augmentation": "crop_flip",
        "drop_last": False,
    },
    # Wu & He 2018, section 4.1: learning rate 0.1 × N/32 for N images per worker, divided by 10 at epochs 30, 60 and 90
    # of 100, weight decay 1e-4 on all parameters. The paper trains ResNet-50 on ImageNet; here resnet20 on CIFAR-10.
    "wu-he": {
        "model": "resnet20",
        "batch_size": 32,
        "epochs": 100,
        "optimizer": {
            "type": "sgd",
            "learning_rate": 0.1,
            "momentum": 0.9,
            "nesterov": False,
            "weight_decay": 1e-4,
        },
        "learning_rate_scaling": {"rule": "linear", "reference_batch_size": 32},
        "schedule": {"type": "multistep", "milestones": (0.3, 0.6, 0.9), "gamma": 0.1, "warmup_epochs": 0.0},
        "dataset": {"name": "cifar10", "standardization": "channel"},
        "augmentation": "crop_flip",
        "drop_last": True,
    },
}
"""Default values of the fields that a job does not give, by recipe."""


def fill_defaults(given: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return `given` with missing fields filled from `defaults`.

    A nested part is filled too, unless its `type` differs from that of the default part.

    Args:
        given: Fields that the job gives.
        defaults: Fields of the recipe.
    """
    filled = deepcopy(defaults) | given
    for name, default in defaults.items():
        part = given.get(name)
        if (
            isinstance(default, dict)
            and isinstance(part, dict)
            and part.get("type", default.get("type")) == default.get("type")
        ):
            filled[name] = default | part
    return filled
