"""Display titles of jobs and experiments. They name every dataset that is not CIFAR-10.

`service.experiments.axes.label` names a single value, such as a normalization; this module names a whole job.
"""

from collections.abc import Iterable, Mapping, Sequence
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
        The name, or a description of a job without one, as in `group (8), batch size 2, model resnet20, seed 0`; with
        its dataset, as in `name [synthetic]`, unless that is CIFAR-10.
    """
    return with_datasets(name or describe(spec, DESCRIBING), [axes.read(spec, "dataset.name")])


def with_datasets(title: str, datasets: Iterable[str | None]) -> str:
    """Return a title with the datasets other than CIFAR-10, about which their results say nothing."""
    others = [dataset for dataset in other_datasets(datasets) if dataset not in title]
    return f"{title} [{', '.join(others)}]" if others else title


def other_datasets(datasets: Iterable[str | None]) -> list[str]:
    """Return the datasets other than the whole of CIFAR-10."""
    return [dataset for dataset in datasets if dataset not in (None, "cifar10")]


def describe(spec: Mapping[str, Any], fields: Sequence[str]) -> str:
    """Describe a job by some fields of its specification, as in `group (8), batch size 2, seed 0`."""
    described = []
    for field in fields:
        value = axes.read(spec, field)
        label = axes.label(field, value)
        described.append(label if isinstance(value, Mapping) else f"{field.replace('_', ' ')} {label}")
    return ", ".join(described)
