"""Display titles of jobs.

`service.experiments.axes.label` names a single value, such as a normalization; this module names a whole job.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from service.experiments import axes

DESCRIBING = ("normalization", "batch_size", "model", "seed")
"""The fields that describe a job without a name."""


def job_title(name: str, spec: Mapping[str, Any]) -> str:
    """Return the display title of a job.

    Args:
        name: The name that was given to the job; may be empty.
        spec: The stored specification of the job.

    Returns:
        The name, or a description of a job without one, as in `group (8), batch size 2, model resnet20, seed 0`. A job
        that does not train on CIFAR-10 always shows its dataset: its results say nothing about CIFAR-10.
    """
    title = name or describe(spec, DESCRIBING)
    dataset = axes.read(spec, "dataset.name")
    return title if dataset in (None, "cifar10") or dataset in title else f"{title} [{dataset}]"


def describe(spec: Mapping[str, Any], fields: Sequence[str]) -> str:
    """Describe a job by some fields of its specification, as in `group (8), batch size 2, seed 0`."""
    described = []
    for field in fields:
        value = axes.read(spec, field)
        label = axes.label(field, value)
        described.append(label if isinstance(value, Mapping) else f"{field.replace('_', ' ')} {label}")
    return ", ".join(described)
