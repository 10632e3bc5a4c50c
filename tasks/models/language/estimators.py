"""The answers read off a distribution over prices, and its temperature.

A language model's greedy text is the most probable string, which is the best answer to no metric a price is judged by.
RAIL (Lukasik et al., arXiv 2403.04182) answers with the estimator that fits the metric instead: the median of the
model's own distribution for absolute error, the mean for squared error, the mean in log space for RMSLE.
"""

from __future__ import annotations

import numpy as np

from tasks.models.predictor import Distribution

GREEDY = "greedy"  # the estimate that is none of these: the most probable text
# How it is written. A base model may bring a penalty on words that the prompt holds, which are prices here.
MOST_PROBABLE = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
TEMPERATURES = np.geomspace(0.25, 4.0, 65)  # 1 is among them
TIE = 1e-12  # a cumulative probability this close to a quantile hits it exactly


def mean(probabilities: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """Mean price [n] of each row [n, k]: the best answer to squared error."""
    return probabilities @ prices


def log_mean(probabilities: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """exp(E[log(1 + price)]) - 1 of each row [n, k]: the best answer to the squared error of log(1 + price), RMSLE."""
    return np.expm1(probabilities @ np.log1p(prices))


def quantile(probabilities: np.ndarray, prices: np.ndarray, q: float) -> np.ndarray:
    """The smallest of the ascending prices [k] whose cumulative probability reaches q, for each row [n, k].

    Where it hits q exactly, every price up to the next possible one would do, and the middle of the two is returned.
    """
    if not 0 <= q <= 1:
        raise ValueError(f"A quantile is between 0 and 1, got {q}.")
    cumulative = probabilities.cumsum(axis=1)
    cumulative /= cumulative[:, -1:]
    last = (cumulative < 1 - TIE).sum(axis=1)
    reaches = (cumulative < max(q - TIE, TIE)).sum(axis=1)
    passes = np.minimum((cumulative <= q + TIE).sum(axis=1), last)
    return (prices[reaches] + prices[np.maximum(passes, reaches)]) / 2


def median(probabilities: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """Median price [n] of each row [n, k]: the best answer to absolute error."""
    return quantile(probabilities, prices, 0.5)


ESTIMATORS = {"median": median, "mean": mean, "log_mean": log_mean}  # each: [n, k] and ascending prices [k] to [n]


def temper(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """The distributions [n, k] to the power of 1 / temperature, each summing to 1 again: above 1 wider, below narrower.

    (Guo et al. 2017 scale the logits of a classifier so; the prices are the classes here.)
    """
    if temperature == 1:
        return probabilities
    # Relative to the most probable price, so that nothing underflows.
    powered = (probabilities / probabilities.max(axis=1, keepdims=True)) ** (1 / temperature)
    return powered / powered.sum(axis=1, keepdims=True)


def fit_temperature(probabilities: np.ndarray, prices: np.ndarray, truth: np.ndarray) -> float:
    """The one of TEMPERATURES with the lowest mean CRPS of the truths [n]; of equals the nearest to 1."""
    truth = np.asarray(truth, dtype=float)

    def loss(temperature: float) -> float:
        distribution = Distribution(prices, temper(probabilities, temperature))
        return float(distribution.crps(truth).mean())

    return float(min(TEMPERATURES, key=lambda temperature: (loss(temperature), abs(np.log(temperature)))))
