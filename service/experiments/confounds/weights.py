"""Checks of the weights: from what they are trained, and which of them are evaluated."""

from service.experiments.confounds.study import Finding, Study, check, counted, listed

_UNSETTLED = 0.01


@check("Jobs differ in label smoothing, which regularizes, and which their training losses contain.", "note")
def several_label_smoothings(study: Study) -> Finding:
    values = sorted({one.spec.label_smoothing for one in study})
    if len(values) == 1:
        return None
    return (
        f"Jobs have label smoothing {listed(f'{value:g}' for value in values)}: a difference between them may be due "
        "to it, and their training losses have different minima.",
        study,
    )


@check("Jobs differ in the average of the weights that is evaluated.", "note")
def several_weight_averages(study: Study) -> Finding:
    named = {one.spec.ema: f"averages with decay {one.spec.ema.decay:g}" for one in study if one.spec.ema}
    plain = ["the weights of the last step"] if any(one.spec.ema is None for one in study) else []
    if len(named) + len(plain) < 2:
        return None
    return f"Jobs are evaluated by {listed([*plain, *named.values()])}: a difference may be due to this.", study


@check("Averages of the weights with one decay cover fewer images at a smaller batch size.", "note")
def average_over_unequal_images(study: Study) -> Finding:
    averaged = [(one.spec.global_batch_size / (1 - one.spec.ema.decay), one) for one in study if one.spec.ema]
    fewest, most = (choose(averaged, key=lambda entry: entry[0], default=None) for choose in (min, max))
    if fewest is None or most is None or most[0] <= 1.01 * fewest[0]:
        return None
    told = " to ".join(f"{images:,.0f} images ({one.spec.global_batch_size} a step)" for images, one in (fewest, most))
    return (
        f"The averages of the weights cover from {told}, 1 / (1 - decay) steps each: give each batch size a decay of "
        "its own.",
        (one for _, one in averaged),
    )


@check("Training is too short for the average of the weights to forget the initial ones.")
def average_not_settled(study: Study) -> Finding:
    left = [(one.spec.ema.decay**one.spec.total_steps, one) for one in study if one.spec.ema]
    unsettled = [(share, one) for share, one in left if share > _UNSETTLED]
    if not unsettled:
        return None
    share, one = max(unsettled, key=lambda entry: entry[0])
    steps = f"{counted(one.spec.total_steps, 'step')} at batch size {one.spec.batch_size}"
    return (
        f"After the {steps}, {100 * share:.0f} % of the average of the weights still consists of the initial weights, "
        "and it is what is evaluated: train longer, or with a smaller decay.",
        (one for _, one in unsettled),
    )


@check("Jobs begin with the weights of a checkpoint: the images that it was trained on count, too.", "note")
def begins_with_a_checkpoint(study: Study) -> Finding:
    begun = [one for one in study if one.spec.init_from is not None]
    if not begun:
        return None
    names = listed(one.spec.init_from for one in begun)
    others = "" if len(begun) == len(study) else "; others begin with random weights"
    return f"Jobs begin with the weights of {names}, which are already trained{others}.", begun


CHECKS = (
    several_label_smoothings,
    several_weight_averages,
    average_over_unequal_images,
    average_not_settled,
    begins_with_a_checkpoint,
)
