"""The error rate, power and cost of sequential seeds, compared with all seeds at once, by simulation.

    python tests/benchmarks/sequential_seeds.py [--experiments 4000] [--min 3] [--max 10] [--random-seed 7]

Each simulated experiment has one column and three rows. The effect of a seed that is common to all rows has a standard
deviation of 0.5; the difference of two rows has a standard deviation of 1. "error" is the share of experiments that
resolve a difference whose true value is 0, "power" is the share of true differences that are resolved, and "seeds" is
the mean number of seeds per cell.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.experiments.statistics import Analysis, Observation, SeedPlan, analyse, plan_analyses, undecided_cells

TRUE_MEANS = ((0, 0, 0), (0, 0, 2), (0, 1, 2), (0, 2, 4))


def observe(values: NDArray[np.float64], row: str, seeds: Sequence[int]) -> list[Observation]:
    """Return the observations of a row for these seeds."""
    return [Observation(row, "2", seed, float(values[int(row), seed]), f"{row}/{seed}") for seed in seeds]


def sequentially(values: NDArray[np.float64], plan: SeedPlan) -> tuple[Analysis, int]:
    """Return the final analysis of a sequential experiment and its number of trainings."""
    cells = [(str(row), "2") for row in range(len(values))]
    observations: list[Observation] = []
    while analysis := undecided_cells(observations, plan, cells=cells):
        for want in analysis.wanted:
            observations += observe(values, want.cell.row, want.seeds)
    return analyse(observations, cells=cells, plan=plan), len(observations)


def count(analysis: Analysis, means: Sequence[float]) -> tuple[int, int]:
    """Return whether a false difference was resolved (0 or 1), and the number of true differences that were."""
    resolved = [means[int(c.row_a)] != means[int(c.row_b)] for c in analysis.comparisons if c.resolved]
    return int(not all(resolved)), sum(resolved)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare sequential seeds with all seeds at once, by simulation.")
    parser.add_argument("--experiments", type=int, default=4_000)
    parser.add_argument("--min", type=int, default=3)
    parser.add_argument("--max", type=int, default=10)
    parser.add_argument("--random-seed", type=int, default=7)
    arguments = parser.parse_args()
    plan = SeedPlan(tuple(range(arguments.max)), plan_analyses(arguments.min, arguments.max))
    print(f"{arguments.experiments} experiments per line; analyses at {', '.join(map(str, plan.analyses))} seeds; 95 %")
    print(f"{'true means':14} {'error':>7} {'(fixed)':>8} {'power':>7} {'(fixed)':>8} {'seeds':>6} of {arguments.max}")
    for means in TRUE_MEANS:
        rng = np.random.default_rng(arguments.random_seed)
        differences = sum(means[a] != means[b] for a in range(3) for b in range(a))
        totals = np.zeros(5)
        for _ in range(arguments.experiments):
            values = rng.normal(size=(3, arguments.max)) / np.sqrt(2) + np.array(means)[:, None]
            values += rng.normal(0, 0.5, arguments.max)
            analysis, trainings = sequentially(values, plan)
            at_once = analyse([o for row in "012" for o in observe(values, row, plan.seeds)])
            totals += [*count(analysis, means), *count(at_once, means), trainings]
        wrong, found, wrong_at_once, found_at_once, trainings = totals / arguments.experiments
        power = [f"{share / differences:.3f}" if differences else "" for share in (found, found_at_once)]
        print(
            f"{', '.join(map(str, means)):14} {wrong:7.3f} {wrong_at_once:8.3f} {power[0]:>7} {power[1]:>8} "
            f"{trainings / 3:6.2f}"
        )


if __name__ == "__main__":
    main()
