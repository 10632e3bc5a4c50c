"""How figures are written: prices with their unit, intervals, p-values, durations, and text inside Markdown."""

from __future__ import annotations

import re

from tasks.data.prices import is_small, three_digits


def amount(value: float, unit: str, digits: str | None = None) -> str:
    """A price with its unit: $38.42, $1,250, 12.30 kg; digits is a format for the number."""
    number = figure(abs(value), digits or (",.0f" if abs(value) >= 1000 else ".2f"))
    return f"{'-' if value < 0 else ''}{with_unit(number, unit)}"


def with_unit(number: str, unit: str) -> str:
    """A written number with its unit: a sign stands before it, a word behind it."""
    return f"{unit}{number}" if len(unit) == 1 and not unit.isalpha() else f"{number} {unit}"


def figure(value: float, form: str) -> str:
    """A figure in a format with fixed digits; one too small for them gets three significant ones: 0.0042, not 0.00."""
    if form.endswith("f") and is_small(value):
        return three_digits(value, "+" if "+" in form else "")
    return format(value, form)


def p_text(p_value: float) -> str:
    """How a p-value is written."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}" if p_value < 0.1 else f"p = {p_value:.2f}"


def span(low: float | None, high: float | None, unit: str) -> str:
    """A 95% interval in words; nothing where there is none."""
    return "" if low is None or high is None else f"95% interval {amount(low, unit)} to {amount(high, unit)}"


def interval(
    low: float | None, high: float | None, *, to: str = " to ", sign: str = "", digits: int | None = None
) -> str:
    """The ends of an interval; nothing where there is none. `sign` is that of a format.

    One decimal is enough unless `digits` says otherwise, but for ends below 1: 0.10 to 0.12, not 0.1 to 0.1.
    """
    if low is None or high is None:
        return ""
    if digits is None:
        digits = 1 if max(abs(low), abs(high)) >= 1 else 2
    return to.join(figure(end, f"{sign}.{digits}f") for end in (low, high))


def duration(seconds: float | None) -> str:
    """How long something took, in the unit that fits."""
    if seconds is None:
        return ""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def escaped(text: str) -> str:
    """Text that is no markup in a cell of a Markdown table."""
    return re.sub(r"([\\`*_\[\]<>|~])", r"\\\1", " ".join(text.split()))
