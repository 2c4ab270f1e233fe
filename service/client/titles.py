"""What jobs are called where people read of them."""

from typing import Any

Json = dict[str, Any]


def normalization_of(spec: Json) -> str:
    """A normalization in a few letters: `group 8`, `group of 4`, `batch`, `batch, ghost 16`."""
    normalization = spec["normalization"]
    kind: str = normalization["type"]
    if normalization.get("num_groups") is not None:
        return f"{kind} {normalization['num_groups']}"
    if normalization.get("channels_per_group") is not None:
        return f"{kind} of {normalization['channels_per_group']}"
    if normalization.get("ghost_batch_size") is not None:
        return f"{kind}, ghost {normalization['ghost_batch_size']}"
    return kind


def title_of(job: Json) -> str:
    """The name of a job, or what it trains where it has none; the synthetic set is always named."""
    spec = job["spec"]
    described = f"{normalization_of(spec)} · batch {spec['batch_size']} · {spec['model']}"
    return name_of(job | {"name": job["name"] or described})


def name_of(job: Json) -> str:
    """The name of a job; where it trains on the synthetic set, with that."""
    dataset = job["spec"]["dataset"]["name"]
    name: str = job["name"]
    return name if dataset == "cifar10" or dataset in name else f"{name} [{dataset}]".lstrip()
