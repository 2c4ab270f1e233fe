"""Checks of the normalizations: effects that their names do not show."""

import math

from service.experiments.axes import label
from service.experiments.confounds.study import Configuration, Finding, Study, check, counted, listed
from worker.architecture import ARCHITECTURES, FeatureMap
from worker.normalizations.batch import BatchNormalization
from worker.normalizations.batch_renorm import BatchRenormalization
from worker.normalizations.grouping import GroupedNormalizationSpec
from worker.spec import TrainingSpec


@check("Statistics over the batch are over one image in training, but over many in evaluation.")
def batch_statistics_at_batch_1(study: Study) -> Finding:
    def smallest(spec: TrainingSpec) -> int | None:
        whole = spec.normalization.images_together(spec.batch_size, spec.num_workers)
        if whole is None or whole > spec.batch_size:
            return whole
        batches = [spec.batch_size, *([] if spec.drop_last else [spec.dataset.num_train % spec.batch_size])]
        return min(part for batch in batches for part in (batch % whole, min(batch, whole)) if part)

    alone = [one for one in study if smallest(one.spec) == 1]
    if not alone:
        return None
    sizes = listed(sorted({one.spec.batch_size for one in alone}))
    names = listed(sorted({one.spec.normalization.type for one in alone}))
    return (
        f"At batch size {sizes} the statistics of {names} are over a single image, at every step or in an incomplete "
        "batch: training normalizes as instance normalization does, and evaluation with averages over images.",
        alone,
    )


@check("Training is too short for the running averages of a normalization to converge.")
def running_averages_not_settled(study: Study) -> Finding:
    left = {
        index: kept**one.spec.total_steps
        for index, one in enumerate(study)
        if (kept := one.spec.normalization.kept_per_step(one.spec.batch_size)) is not None
    }
    unsettled = [index for index, share in left.items() if share > _UNSETTLED]
    if not unsettled:
        return None
    worst = max(unsettled, key=left.__getitem__)
    spec = study[worst].spec
    return (
        f"After the {counted(spec.total_steps, 'step')} at batch size {spec.batch_size}, {100 * left[worst]:.0f} % of "
        f"the running averages of {spec.normalization.type} still consists of their initial values, and evaluation "
        "uses them: train longer, or with a larger momentum.",
        [study[index] for index in unsettled],
    )


_UNSETTLED = 0.01


@check("Training ends before batch renormalization differs from batch normalization.")
def renormalization_not_started(study: Study) -> Finding:
    early: list[Configuration] = []
    parts: list[str] = []
    for one in study:
        match one.spec.normalization:
            case BatchRenormalization(ramp_start=start) if one.spec.total_steps <= start:
                early.append(one)
                parts.append(f"{counted(one.spec.total_steps, 'step')} at batch size {one.spec.batch_size}")
    if not early:
        return None
    return (
        f"Training takes {listed(parts)}, but batch_renorm is batch normalization until step `ramp_start`: give a "
        "smaller `ramp_start`, `r_ramp_end` and `d_ramp_end`, or train longer.",
        early,
    )


@check("A ghost batch that is larger than the batch changes nothing.")
def ghost_batch_larger_than_batch(study: Study) -> Finding:
    larger = [one for one in study if _ghost(one.spec) > one.spec.batch_size]
    if not larger:
        return None
    pairs = listed(f"{_ghost(one.spec)} at batch size {one.spec.batch_size}" for one in larger)
    return f"The ghost batch is {pairs}: that is batch normalization of the whole batch.", larger


@check("The last ghost batch is smaller if the size of ghost batches does not divide the batch size.", "note")
def partial_ghost_batch(study: Study) -> Finding:
    partial = [
        one for one in study if 0 < _ghost(one.spec) < one.spec.batch_size and one.spec.batch_size % _ghost(one.spec)
    ]
    if not partial:
        return None
    parts = listed(
        f"{one.spec.batch_size % _ghost(one.spec)} of {one.spec.batch_size} images (in chunks of {_ghost(one.spec)})"
        for one in partial
    )
    return f"The last ghost batch of a step holds {parts}: its statistics are over fewer images.", partial


@check("The last batch of an epoch is smaller than the others.", "note")
def partial_last_batch(study: Study) -> Finding:
    def rest(one: Configuration) -> int:
        return one.spec.dataset.num_train % one.spec.batch_size

    partial = [one for one in study if not one.spec.drop_last and rest(one)]
    if not partial:
        return None
    parts = listed(f"{rest(one)} of {one.spec.batch_size} images" for one in partial)
    return (
        f"The last batch of an epoch has {parts}: its images weigh more, and batch statistics are over fewer. "
        "`drop_last` leaves it out.",
        partial,
    )


@check("A fixed number of groups holds more channels in wide layers than in narrow ones.", "note")
def unequal_channels_per_group(study: Study) -> Finding:
    uneven: list[Configuration] = []
    parts: list[str] = []
    for one in study:
        match one.spec.normalization:
            case GroupedNormalizationSpec(num_groups=int(groups)) if groups > 1:
                channels = [m.num_channels // groups for m in ARCHITECTURES[one.spec.model].feature_maps()]
                if min(channels) < max(channels):
                    uneven.append(one)
                    parts.append(
                        f"{groups} groups hold {min(channels)} to {max(channels)} channels in {one.spec.model}"
                    )
    if not uneven:
        return None
    return f"{listed(parts)}, as in the paper; `channels_per_group` keeps their size instead of their number.", uneven


_FEW_VALUES = 16


@check("A mean and a variance are taken over very few values of an image.", "note")
def few_values_per_statistic(study: Study) -> Finding:
    few: list[Configuration] = []
    parts: list[str] = []
    for one in study:
        values, layer = min(
            (_values_per_statistic(one.spec, m), m.layer) for m in ARCHITECTURES[one.spec.model].feature_maps()
        )
        if values < _FEW_VALUES:
            few.append(one)
            name = label("normalization", one.spec.normalization.model_dump())
            parts.append(f"{values:g} values in layer {layer} of {one.spec.model} ({name})")
    if not few:
        return None
    return f"Statistics are over as few as {listed(parts)}: as noisy as those of a small batch.", few


def _values_per_statistic(spec: TrainingSpec, feature_map: FeatureMap) -> float:
    """Return the number of values in a statistic of one image; infinite without such a statistic."""
    channels = spec.normalization.channels_together(feature_map.num_channels)
    return math.inf if channels is None else channels * feature_map.size**2


def _ghost(spec: TrainingSpec) -> int:
    """Return the size of the ghost batch, 0 without one."""
    normalization = spec.normalization
    return (normalization.ghost_batch_size or 0) if isinstance(normalization, BatchNormalization) else 0


CHECKS = (
    batch_statistics_at_batch_1,
    running_averages_not_settled,
    renormalization_not_started,
    ghost_batch_larger_than_batch,
    partial_ghost_batch,
    partial_last_batch,
    unequal_channels_per_group,
    few_values_per_statistic,
)
