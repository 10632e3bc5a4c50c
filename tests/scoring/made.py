"""Prices and guesses to score, drawn by a seed."""

from __future__ import annotations

import numpy as np


def prices(seed: int, n: int = 400) -> tuple[np.ndarray, np.random.Generator]:
    """Lognormal prices [n] in dollars, and the generator to draw more from."""
    random = np.random.default_rng(seed)
    return np.exp(random.normal(4, 1, n)), random


def noisy(truth: np.ndarray, random: np.random.Generator, sigma: float) -> np.ndarray:
    """Guesses that are off by a lognormal factor."""
    return truth * np.exp(random.normal(0, sigma, len(truth)))
