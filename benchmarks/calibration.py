"""How often the contest's tests are wrong where nothing differs, as they are now and as they were before.

    python -m benchmarks.calibration [samples]

Prints tables for docs/benchmarks.md. Each figure is a share of simulated samples of test items in which equal models
were told apart; 5% is right, less is careful. `before` is a sign-flip permutation test of each model and the leader,
with Holm's correction, and the same level every night; for an interval, that of two models that nobody picked.
"""

from __future__ import annotations

import datetime
import math
import sys

import numpy as np

from tasks.promotion import spent_alpha
from tasks.scoring.comparisons import compare
from tasks.scoring.resampling import bootstrap_interval, confidence_set, holm, paired_comparison

LEVEL, RESAMPLES, NIGHTS = 0.05, 400, 30


def equal_models(random: np.random.Generator, models: int, items: int, *, alike: bool) -> np.ndarray:
    """Absolute errors [models, items] in dollars of models that are equally good in the long run: what is hard for one
    is hard for all, and unless they are `alike` some are steady and some erratic."""
    hard = random.lognormal(3, 1, (1, items))
    spread = np.full(models, 0.7) if alike else np.linspace(0.3, 1.3, models)
    return hard * random.lognormal(-(spread[:, None] ** 2) / 2, spread[:, None], (models, items))


def sign_flip(differences: np.ndarray, seed: int) -> float:
    """Two-sided p-value that differences [n] have mean zero, if they are symmetric (Fisher 1935)."""
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (RESAMPLES, len(differences)))
    as_far = np.abs(signs @ differences) >= abs(differences.sum()) * (1 - 1e-9)
    return float((1 + as_far.sum()) / (1 + RESAMPLES))


def leader_before(losses: np.ndarray, seed: int) -> bool:
    """Whether some model was told from the observed leader, each tested as if it had been picked beforehand."""
    leader = losses.mean(axis=1).argmin()
    p_values = [sign_flip(row - losses[leader], seed) for place, row in enumerate(losses) if place != leader]
    return any(p is not None and p < LEVEL for p in holm(p_values))


def leader_now(losses: np.ndarray, seed: int) -> bool:
    """Whether some model is not in the confidence set of the best."""
    return bool((confidence_set(losses, seed=seed, resamples=RESAMPLES).p_values < LEVEL).any())


def intervals_before(losses: np.ndarray, seed: int) -> bool:
    """Whether some interval beside the observed leader misses the difference of zero: those of two models that were
    picked beforehand."""
    low, _ = bootstrap_interval(losses - losses[losses.mean(axis=1).argmin()], seed=seed, resamples=RESAMPLES)
    return bool((low > 0).any())


def intervals_now(losses: np.ndarray, seed: int) -> bool:
    """The same of the intervals of a leaderboard."""
    guesses = dict(zip(map(str, range(len(losses))), losses, strict=True))
    board = compare(
        np.zeros(losses.shape[1]), guesses, dict.fromkeys(guesses, "baseline"), seed=seed, resamples=RESAMPLES
    )
    return any(row.difference_low is not None and row.difference_low > 0 for row in board.values())


def leaders(samples: int) -> None:
    """Rank 1: a false "worse" among equal models, and a false interval beside one of them."""
    print("| equal models | items | errors | before | now | an interval before | now |\n|---|---|---|---|---|---|---|")
    for models, items, alike in (
        *((2, 200, True), (5, 200, True), (10, 200, True), (15, 200, True)),
        *((2, 64, False), (10, 64, False), (10, 200, False), (15, 500, False)),
    ):
        drawn = [equal_models(np.random.default_rng([models, n]), models, items, alike=alike) for n in range(samples)]
        told = (leader_before, leader_now, intervals_before, intervals_now)
        shares = [np.mean([wrong(losses, n) for n, losses in enumerate(drawn)]) for wrong in told]
        cells = (models, items, "alike" if alike else "of many kinds", *(f"{share:.1%}" for share in shares))
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def skewed(samples: int) -> None:
    """The paired test: skewed differences of mean zero."""
    print("\n| items | before | now |\n|---|---|---|")
    for items in (30, 64, 200, 1_000):
        drawn = np.random.default_rng(items).lognormal(0, 1, (samples, items)) - math.exp(0.5)
        before = np.mean([sign_flip(row, n) < LEVEL for n, row in enumerate(drawn)])
        now = np.mean(
            [
                paired_comparison(np.zeros(items), row, seed=n, resamples=RESAMPLES).p_value < LEVEL
                for n, row in enumerate(drawn)
            ]
        )
        print(f"| {items} | {before:.1%} | {now:.1%} |", flush=True)


def nights(samples: int) -> None:
    """Promotion: how often an equal challenger takes the title at least once in a month on one test set."""
    crowned = {"before": 0, "now": 0}
    for sample in range(samples):
        random = np.random.default_rng([99, sample])
        errors = equal_models(random, NIGHTS + 1, 200, alike=True)
        for name, level in (("before", lambda _: LEVEL), ("now", lambda look: spent_alpha(LEVEL, look))):
            differences = errors[1:] - errors[0]
            # Each night's test by its normal approximation: thirty bootstraps a sample would take hours.
            z = differences.mean(axis=1) / (differences.std(axis=1) / math.sqrt(differences.shape[1]))
            p_values = [math.erfc(abs(value) / math.sqrt(2)) for value in z]
            better = [
                p < level(night) and value < 0 for night, (p, value) in enumerate(zip(p_values, z, strict=True), 1)
            ]
            crowned[name] += any(better)
    print(f"\n| nights | before | now |\n|---|---|---|\n| {NIGHTS} |", end="")
    print(f" {crowned['before'] / samples:.1%} | {crowned['now'] / samples:.1%} |")


def main(samples: int = 400) -> None:
    """Run and print the tables."""
    print(f"{datetime.date.today()}: `python -m benchmarks.calibration {samples}`\n")
    leaders(samples)
    skewed(samples)
    nights(samples)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
