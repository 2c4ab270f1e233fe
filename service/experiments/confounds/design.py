"""Checks of the design: differences between jobs besides those under study."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations

from service.experiments.confounds.study import FIELDS, Candidate, Configuration, Finding, Study, check, counted, listed
from worker.spec import DATASET_SIZES, TrainingSpec


@check("Several batch sizes share one learning rate, so the batch size stands for its ratio to the learning rate too.")
def learning_rate_not_scaled(study: Study) -> Finding:
    unscaled: dict[Hashable, list[Configuration]] = defaultdict(list)
    for one in study:
        if one.spec.learning_rate_scaling.rule == "none":
            unscaled[one.spec.optimizer.type, one.spec.optimizer.learning_rate].append(one)
    shared = [alike for alike in unscaled.values() if len({one.spec.global_batch_size for one in alike}) > 1]
    if not shared:
        return None
    rates = listed(f"{one[0].spec.optimizer.learning_rate:g}" for one in shared)
    sizes = listed(sorted({one.spec.global_batch_size for alike in shared for one in alike}))
    return (
        f"The learning rate is {rates} at batch sizes {sizes} alike, with no scaling: a difference between batch sizes "
        f"may be due to the learning rate. The rule `linear` scales it.",
        (one for alike in shared for one in alike),
    )


@check("Normalizations share one learning rate and weight decay, which favours those that they suit.", "note")
def shared_hyperparameters(study: Study) -> Finding:
    compared = {one.spec.normalization.type for one in study}
    rates = {(one.spec.optimizer.type, one.spec.optimizer.learning_rate) for one in study}
    decays = {one.spec.optimizer.weight_decay for one in study}
    if len(compared) < 2 or len(rates) > 1 or len(decays) > 1:
        return None
    optimizer = study[0].spec.optimizer
    decay = f" and weight decay {optimizer.weight_decay:g}, also of scales and shifts" if optimizer.weight_decay else ""
    return (
        f"All normalizations have learning rate {optimizer.learning_rate:g}{decay}: values that suit one of them may "
        "not suit another, whose error would be lower with others.",
        study,
    )


@check("Two settings vary, but not independently, so their effects cannot be separated.")
def settings_change_together(study: Study) -> Finding:
    values = [_settings(one.spec, study) for one in study]
    varying = [name for name in values[0] if len({one[name] for one in values}) > 1]
    together: list[set[str]] = []
    for a, b in combinations(varying, 2):
        if not _crossed(a, b, values):
            joined = [cluster for cluster in together if cluster & {a, b}]
            together = [cluster for cluster in together if cluster not in joined] + [{a, b}.union(*joined)]
    if not together:
        return None
    named = "; ".join(listed(name for name in varying if name in cluster) for cluster in together)
    return (
        f"These change together, not independently of each other: {named}. Their effects cannot be separated.",
        study,
    )


_SIZES = {"batch_size", "num_workers"}
"""The fields that determine the images of a step."""
_MAY_FOLLOW_THE_BATCH_SIZE = {"optimizer.learning_rate", "epochs"}
"""Fields that may be scaled with the batch size; other codes cover them."""


def _settings(spec: TrainingSpec, study: Study) -> dict[str, Hashable]:
    """Return the fields that may vary, by name. A part of one type in all jobs is split into its fields."""
    settings: dict[str, Hashable] = {}
    for name in FIELDS:
        part = getattr(spec, name)
        types = {type(getattr(one.spec, name)) for one in study}
        if name == "learning_rate_scaling":
            continue
        if name == "normalization" or len(types) > 1 or not hasattr(part, "model_fields_set"):
            settings[name] = part
        else:
            settings |= {f"{name}.{field}": getattr(part, field) for field in type(part).model_fields}
    if "optimizer.learning_rate" in settings:
        settings["optimizer.learning_rate"] = round(spec.scaled_learning_rate, 12)
    return settings


def _crossed(a: str, b: str, values: Sequence[dict[str, Hashable]]) -> bool:
    """Return whether every value of `a` occurs with the same values of `b`."""
    following = _MAY_FOLLOW_THE_BATCH_SIZE & {a, b}
    if (_SIZES & {a, b} and following) or {a, b} == {"batch_size", "normalization"}:
        return True  # the table itself shows which normalization was tried at which batch size
    by_size: dict[Hashable, dict[Hashable, set[Hashable]]] = defaultdict(lambda: defaultdict(set))
    for one in values:
        by_size[tuple(one[size] for size in sorted(_SIZES)) if following else None][one[a]].add(one[b])
    return all(len(set(map(frozenset, met.values()))) == 1 for met in by_size.values())


@check(
    "Jobs take different numbers of optimizer steps: at equal epochs a smaller batch takes more of them.",
    "note",
)
def unequal_optimizer_steps(study: Study) -> Finding:
    steps = [one.spec.total_steps for one in study]
    if _alike(min(steps), max(steps)):
        return None
    fewest, most = (choose(study, key=lambda one: one.spec.total_steps).spec for choose in (min, max))
    return (
        f"Jobs take from {fewest.total_steps:,} optimizer steps (batch size {fewest.batch_size}, "
        f"{counted(fewest.epochs, 'epoch')}) to {most.total_steps:,} (batch size {most.batch_size}, "
        f"{counted(most.epochs, 'epoch')}). With equal epochs, as in the paper, this follows from the batch size.",
        study,
    )


@check("Jobs see different numbers of training images over all their epochs.")
def unequal_images_seen(study: Study) -> Finding:
    seen = [one.spec.dataset.num_train * one.spec.epochs for one in study]
    if _alike(min(seen), max(seen)):
        return None
    return f"Jobs see from {min(seen):,} to {max(seen):,} training images (epochs × images of an epoch).", study


@check("Jobs are evaluated on different images, so their errors are not comparable.")
def several_evaluation_sets(study: Study) -> Finding:
    def tested_on(spec: TrainingSpec) -> str | None:
        return f"{spec.dataset.num_test:,} test images of {spec.dataset.name}" if spec.dataset.num_test else None

    def selected_on(spec: TrainingSpec) -> str | None:
        data = spec.dataset
        return f"{data.holdout:,} held out training images of {data.name}" if data.holdout else None

    sentence = "Jobs are evaluated on different images: {values}."
    found = (_several(((describe(one.spec), one) for one in study), sentence) for describe in (tested_on, selected_on))
    return next((finding for finding in found if finding), None)


@check("Jobs ran on different kinds of device, whose arithmetic differs in the last bits.")
def several_devices(study: Study) -> Finding:
    return _several(
        ((job.device, job) for one in study for job in one.jobs), "Jobs ran on different devices: {values}."
    )


@check("Jobs ran in different precisions.")
def several_precisions(study: Study) -> Finding:
    """Consider jobs with the precision `auto` only: a requested precision is a setting like any other."""
    left_to_the_machine = (job for one in study for job in one.jobs if job.spec.precision == "auto")
    return _several(
        ((job.precision, job) for job in left_to_the_machine),
        "Jobs whose precision is `auto` ran in different precisions: {values}. Name one of them in the job.",
    )


@check("Jobs ran with different versions of the software.")
def several_versions(study: Study) -> Finding:
    names = sorted({name for one in study for job in one.jobs for name in job.versions})
    jobs = [job for one in study for job in one.jobs if job.versions]
    differing = [name for name in names if len({job.versions.get(name) for job in jobs}) > 1]
    if not differing:
        return None
    told = "; ".join(f"{name} {listed(job.versions.get(name, 'none') for job in jobs)}" for name in differing)
    return f"Jobs ran with different versions of the software: {told}.", jobs


@check("With one seed, a difference cannot be distinguished from chance.")
def single_seed(study: Study) -> Finding:
    if sum(len(one.jobs) for one in study) < 2 or any(len({job.spec.seed for job in one.jobs}) > 1 for one in study):
        return None
    return (
        "Every configuration has one seed only: no intervals, and no difference can be distinguished from chance.",
        study,
    )


@check("A job repeats another one with the same seed: it adds no information, and counts once.", "note")
def repeated_job(study: Study) -> Finding:
    repeated: list[Candidate] = []
    for one in study:
        by_seed: dict[int, list[Candidate]] = defaultdict(list)
        for job in one.jobs:
            by_seed[job.spec.seed].append(job)
        repeated += [job for alike in by_seed.values() if len(alike) > 1 for job in alike]
    if not repeated:
        return None
    return f"{len(repeated)} jobs share configuration and seed with another one: one of each set counts.", repeated


@check("Jobs train on a part of the training images only.", "note")
def part_of_the_training_set(study: Study) -> Finding:
    limited: list[Configuration] = []
    parts: list[str] = []
    for one in study:
        used, size = one.spec.dataset.num_train, DATASET_SIZES[one.spec.dataset.name][0]
        if used < size:
            limited.append(one)
            parts.append(f"{used:,} of {size:,}")
    if not limited:
        return None
    return (
        f"Jobs train on {listed(parts)} training images: errors are higher than with all, and ranks may differ.",
        limited,
    )


@check("Results on synthetic images do not apply to CIFAR-10.", "note")
def synthetic_images(study: Study) -> Finding:
    synthetic = [one for one in study if one.spec.dataset.name == "synthetic"]
    if not synthetic:
        return None
    return "The images are synthetic: suitable for tests, but the results do not apply to CIFAR-10.", synthetic


def _several(values: Iterable[tuple[str | None, Configuration | Candidate]], sentence: str) -> Finding:
    """Return a finding if there is more than one known value."""
    known = [(value, one) for value, one in values if value is not None]
    distinct = dict.fromkeys(value for value, _ in known)
    return (sentence.format(values=listed(distinct)), [one for _, one in known]) if len(distinct) > 1 else None


def _alike(fewest: int, most: int) -> bool:
    """Return whether two counts differ by at most 1 %, as much as a dropped last batch may cause."""
    return most <= 1.01 * fewest


CHECKS = (
    learning_rate_not_scaled,
    shared_hyperparameters,
    settings_change_together,
    unequal_optimizer_steps,
    unequal_images_seen,
    several_evaluation_sets,
    several_devices,
    several_precisions,
    several_versions,
    single_seed,
    repeated_job,
    part_of_the_training_set,
    synthetic_images,
)
