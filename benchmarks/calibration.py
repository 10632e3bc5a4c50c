"""How often the contest's tests are wrong where nothing differs, as they are now and as they were before.

    python -m benchmarks.calibration [samples]

Prints tables for docs/benchmarks.md. Each figure is a share of simulated samples of test items in which equal models
were told apart; 5% is right, less is careful. `before` is a sign-flip permutation test of each model and the leader,
with Holm's correction, and the same level every night; for an interval, that of two models that nobody picked. For two
models that nobody picked it is a bootstrap-t of each tail by itself, and the percentile interval.
"""

from __future__ import annotations

import datetime
import math
import sys

import numpy as np

from tasks.promotion import spent_alpha
from tasks.scoring.comparisons import compare
from tasks.scoring.resampling import bootstrap_interval, bootstrap_t, confidence_set, holm, paired_comparison

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


def one_tail_at_a_time(differences: np.ndarray, seed: int) -> tuple[bool, bool]:
    """Whether differences [n] are told from zero: by a bootstrap-t of each tail, and by the percentile interval."""
    observed, drawn = bootstrap_t(differences, seed=seed, resamples=RESAMPLES)
    tails = (drawn[:, 0] >= observed[0]).sum(), (drawn[:, 0] <= observed[0]).sum()
    low, high = (ends[0] for ends in bootstrap_interval(differences, seed=seed, resamples=RESAMPLES))
    return 2 * (1 + min(tails)) / (1 + RESAMPLES) < LEVEL, not low <= 0 <= high


def pairs(samples: int) -> None:
    """Two models that nobody picked: a false difference, by its p-value and by its interval, which are one now."""
    print("\n| items | differences | p before | interval before | both now |\n|---|---|---|---|---|")
    for items in (30, 64, 200, 1_000):
        for name, alike in (("of models alike", True), ("of a steady and an erratic one", False), ("skewed", None)):
            wrong = np.zeros(3)
            for n in range(samples):
                random = np.random.default_rng([5, items, n])
                if alike is None:
                    row = random.lognormal(0, 1, items) - math.exp(0.5)
                else:
                    row = np.subtract(*equal_models(random, 2, items, alike=alike))
                now = paired_comparison(np.zeros(items), row, seed=n, resamples=RESAMPLES)
                wrong += [*one_tail_at_a_time(row, n), now.p_value < LEVEL]
            print(f"| {items} | {name} | {' | '.join(f'{share:.1%}' for share in wrong / samples)} |", flush=True)


def of_products(
    random: np.random.Generator, models: int, products: int, variants: int
) -> tuple[np.ndarray, np.ndarray]:
    """Absolute errors [models, items] of equally good models, and the product [items] that each item is a variant of:
    from one to twice `variants` less one. Most of an error is that on the product."""
    of = np.repeat(np.arange(products), random.integers(1, 2 * variants, products))
    shared = equal_models(random, models, products, alike=True)[:, of]
    return shared * random.lognormal(-0.02, 0.2, (models, len(of))), of


def variants(samples: int) -> None:
    """A test set of products in several variants, counted as items and as products: a false "worse" of equal models, a
    false difference of two that were picked beforehand, and an interval that misses the error in the long run."""
    print(
        "\n| equal models | products | of items | worse | as products | different | as products | error | as products |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for models, products, each in ((2, 60, 1), (2, 60, 5), (5, 60, 5), (10, 200, 2), (10, 200, 5)):
        wrong, count, long_run = np.zeros(6), 0, math.exp(3.5)
        for n in range(samples):
            losses, of = of_products(np.random.default_rng([models, products, n]), models, products, each)
            count += len(of)
            told = []
            for families in (None, of):
                judged = {"seed": n, "resamples": RESAMPLES, "families": families}
                low, high = (end[0] for end in bootstrap_interval(losses, **judged))
                told.append(
                    [
                        (confidence_set(losses, **judged).p_values < LEVEL).any(),
                        paired_comparison(losses[0], losses[1], **judged).p_value < LEVEL,
                        not low < long_run < high,
                    ]
                )
            wrong += np.array(told).T.ravel()
        shares = (f"{share:.1%}" for share in wrong / samples)
        print(f"| {models} | {products} | {count / samples:.0f} | {' | '.join(shares)} |", flush=True)


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
    pairs(samples)
    variants(samples)
    nights(samples)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
