"""Whether the statistics of results keep their promises under what really happens, by simulation.

    python tests/benchmarks/statistical_promises.py [--experiments 1000] [--random-seed 7] [--only coverage power ...]

A value is the mean of its cell, plus an effect of its seed that all cells share, plus noise. The kinds of noise have a
standard deviation of 1, or of 1 to 4 where the rows and columns differ as they did for BatchNorm: at batch 2 its errors
varied four times as much as at batch 32.

- coverage: the share of 95 % intervals of a mean that contain it, by the number of seeds.
- errors: the share of tables without any difference that resolve one (at most 5 % is promised), and the same for the
  F test of the interaction and for its contrasts.
- seeds_needed: the share of differences that are resolved once as many seeds were added as results asked for (about a
  half is promised).
- power: the share of true differences that are resolved, by their size in standard deviations of a difference.
- survivors: the error of the mean of a cell that loses its worst values because these trainings diverge.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from service.experiments.statistics import Observation, SeedPlan, analyse, plan_analyses, undecided_cells
from service.experiments.statistics.comparisons import seeds_needed
from service.experiments.statistics.intervals import estimate

Values = NDArray[np.float64]
Random = np.random.Generator

SEEDS = (2, 3, 5, 10)
TABLES = ((2, 2), (2, 5), (4, 3), (6, 5))
SHARED_SD = 0.5


def normal(random: Random, shape: tuple[int, ...]) -> Values:
    return random.normal(size=shape)


def skewed(random: Random, shape: tuple[int, ...]) -> Values:
    """A shifted log-normal distribution of skewness 2.3."""
    values = random.lognormal(0, 0.6, shape)
    return np.asarray((values - np.exp(0.18)) / (np.exp(0.18) * np.sqrt(np.exp(0.36) - 1)))


def heavy_tailed(random: Random, shape: tuple[int, ...]) -> Values:
    """Student's distribution with 4 degrees of freedom."""
    return np.asarray(random.standard_t(4, shape) / np.sqrt(2))


def unequal(random: Random, shape: tuple[int, ...]) -> Values:
    """The deviation of the first row grows from 1 to 4 along the columns."""
    values = random.normal(size=shape)
    values[0] *= np.linspace(1, 4, shape[1])[:, None]
    return values


NOISE: dict[str, Callable[[Random, tuple[int, ...]], Values]] = {
    "normal": normal,
    "skewed": skewed,
    "heavy tails": heavy_tailed,
    "unequal": unequal,
}


def at_random(random: Random, values: Values) -> None:
    """Lose a tenth of the values."""
    values[random.random(values.shape) < 0.1] = np.nan


def diverged(_: Random, values: Values) -> None:
    """Lose the values of the first row in the last column that are a standard deviation above the mean."""
    cell = values[0, -1]
    cell[cell > 1] = np.nan


MISSING: dict[str, Callable[[Random, Values], None]] = {
    "none": lambda *_: None,
    "at random": at_random,
    "diverged": diverged,
}


def observations(values: Values, row: int, column: int, seeds: Sequence[int]) -> list[Observation]:
    """Return the observations of a cell of `values` (rows, columns, seeds); NaN is a job without a value."""
    found = []
    for seed in seeds:
        value = float(values[row, column, seed])
        label = f"{row}/{column}/{seed}"
        found.append(Observation(str(row), str(column), seed, None if np.isnan(value) else value, label))
    return found


def whole(values: Values) -> list[Observation]:
    """Return the observations of all cells."""
    rows, columns, seeds = values.shape
    return [
        o for row in range(rows) for column in range(columns) for o in observations(values, row, column, range(seeds))
    ]


def coverage(random: Random, experiments: int) -> None:
    print(f"\ncoverage of the 95 % interval of a mean\n{'noise':12}" + "".join(f"{f'n = {n}':>9}" for n in SEEDS))
    for name in ("normal", "skewed", "heavy tails"):
        shares = []
        for n in SEEDS:
            samples = NOISE[name](random, (20 * experiments, n))
            intervals = (estimate(list(sample), confidence=0.95).interval for sample in samples)
            shares.append(np.mean([found is not None and found[0] <= 0 <= found[1] for found in intervals]))
        print(f"{name:12}" + "".join(f"{share:9.3f}" for share in shares), flush=True)


def errors(random: Random, experiments: int) -> None:
    plan = SeedPlan(tuple(range(10)), plan_analyses(3, 10))
    print(f"\nshare of tables without a difference that resolve one; sequential: {plan.analyses} seeds")
    titles = ("3 seeds", "5 seeds", "sequential", "F test", "contrasts")
    print(f"{'table':6}{'noise':>13}{'missing':>11}" + "".join(f"{title:>12}" for title in titles))
    for rows, columns in TABLES:
        for noise, missing in [(noise, "none") for noise in NOISE] + [("normal", "at random"), ("normal", "diverged")]:
            wrong = np.zeros(5)
            for _ in range(experiments):
                values = NOISE[noise](random, (rows, columns, 10)) + random.normal(0, SHARED_SD, 10)
                MISSING[missing](random, values)
                analyses = [analyse(whole(values[:, :, :n])) for n in (3, 5)]
                found = [any(c.resolved for c in analysis.comparisons) for analysis in analyses]
                found.append(sequentially(values, plan))
                interaction = analyses[1].interaction
                found.append(interaction is not None and interaction.p < 0.05)
                found.append(interaction is not None and any(c.resolved for c in interaction.contrasts))
                wrong += found
            shares = wrong / experiments
            print(f"{f'{rows}×{columns}':6}{noise:>13}{missing:>11}"
                  + "".join(f"{share:12.3f}" for share in shares), flush=True)  # fmt: skip


def sequentially(values: Values, plan: SeedPlan) -> bool:
    """Return whether a sequential experiment resolves any difference."""
    rows, columns, _ = values.shape
    cells = [(str(row), str(column)) for row in range(rows) for column in range(columns)]
    found: list[Observation] = []
    while analysis := undecided_cells(found, plan, cells=cells):
        for want in analysis.wanted:
            found += observations(values, int(want.cell.row), int(want.cell.column), want.seeds)
    return any(c.resolved for c in analyse(found, cells=cells, plan=plan).comparisons)


def calibration(random: Random, experiments: int) -> None:
    print("\nseeds_needed: share resolved with the seeds asked for, beginning with 5 (true differences of 0.3 to 1.5)")
    for name in ("normal", "skewed", "heavy tails"):
        asked, passed = 0, 0
        for _ in range(10 * experiments):
            effect = random.uniform(0.3, 1.5)
            differences = effect + NOISE[name](random, (60,))
            first = estimate(list(differences[:5]), confidence=0.95)
            more = None if first.p is None or first.p < 0.05 else seeds_needed(first, 0.05)
            if more is None or more > 55:
                continue
            p = estimate(list(differences[: 5 + more]), confidence=0.95).p
            asked, passed = asked + 1, passed + (p is not None and p < 0.05)
        print(f"{name:12}{passed / asked:9.3f}  of {asked}", flush=True)


def power(random: Random, experiments: int) -> None:
    sizes = (0.5, 1, 2, 4, 8)
    print("\npower: share of the differences resolved in a table of 2 rows, by size in standard deviations of one")
    print(f"{'columns':8}{'seeds':>6}" + "".join(f"{size:>8}" for size in sizes))
    for columns in (1, 5):
        for n in (3, 5, 10):
            shares = []
            for size in sizes:
                found = 0
                for _ in range(experiments):
                    values = random.normal(size=(2, columns, n)) / np.sqrt(2) + random.normal(0, SHARED_SD, n)
                    values[1] += size
                    found += sum(c.resolved for c in analyse(whole(values)).comparisons)
                shares.append(found / experiments / columns)
            print(f"{columns:<8}{n:>6}" + "".join(f"{share:8.2f}" for share in shares), flush=True)


def survivors(random: Random, experiments: int) -> None:
    print("\nmean of the survivors, in standard deviations from the true mean, if the worst trainings diverge")
    for share in (0.1, 0.3, 0.5):
        values = np.sort(random.normal(size=(100 * experiments, 10)), axis=1)[:, : round(10 * (1 - share))]
        print(f"{share:.0%} of 10 seeds{values.mean():9.2f}", flush=True)


PARTS = {
    "coverage": coverage,
    "errors": errors,
    "calibration": calibration,
    "power": power,
    "survivors": survivors,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=1_000)
    parser.add_argument("--random-seed", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    arguments = parser.parse_args()
    print(f"{arguments.experiments} experiments per line")
    for name in arguments.only:
        PARTS[name](np.random.default_rng(arguments.random_seed), arguments.experiments)


if __name__ == "__main__":
    main()
