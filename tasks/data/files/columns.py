"""Which column of a file is which of our fields: as the conf says, or by name, whatever its case and the blanks."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

FIELDS = ("id", "title", "text", "description", "features", "details", "category", "price")
WORDS = frozenset({"title", "text", "description", "features", "details"})
Mapped = Mapping[Any, str | tuple[str, ...]]  # by the names of our fields


class Plan(NamedTuple):
    """For each of our fields the columns it is made of; the names of the conf that are not there; and for each field
    that several columns could be, these."""

    columns: tuple[tuple[str, str | tuple[str | None, ...] | None], ...]
    missing: tuple[str, ...]
    twice: tuple[tuple[str, tuple[str, ...]], ...]

    def of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a row."""
        return {
            ours: row[theirs] if isinstance(theirs, str) else _several(row, theirs) for ours, theirs in self.columns
        }


def _several(row: Mapping[str, Any], names: tuple[str | None, ...] | None) -> list[Any] | None:
    return None if names is None else [None if name is None else row[name] for name in names]


def plan(keys: tuple[str, ...], mapped: Mapped, *, strict: bool = True) -> Plan:
    """The plan for rows, or a header, of these keys. Unless `strict`, a field that has none of the conf's columns goes
    by our own name: for items to be priced, of which all words are wanted; a price is learned from no other column."""
    return _plan(keys, tuple(mapped.items()), strict)


@functools.lru_cache(maxsize=4096)
def _plan(keys: tuple[str, ...], mapped: tuple[tuple[str, str | tuple[str, ...]], ...], strict: bool) -> Plan:
    known: dict[str, list[str]] = {}
    for key in keys:
        known.setdefault(folded(key), []).append(key)
    columns: dict[str, str | tuple[str | None, ...] | None] = {}
    missing, twice, taken = [], {}, set()

    def find(ours: str, name: str) -> str | None:
        exact = [key for key in keys if key == name]
        alike = exact or known.get(folded(name), [])
        if len(alike) > 1:
            twice[ours] = tuple(alike)
        taken.update(alike)
        return alike[0] if alike else None

    for ours, theirs in mapped:
        names = (theirs,) if isinstance(theirs, str) else theirs
        found = tuple(find(ours, name) for name in names)
        missing += [name for name, key in zip(names, found, strict=True) if key is None]
        if strict or any(key is not None for key in found):
            columns[ours] = found[0] if isinstance(theirs, str) else found
    for ours in FIELDS:
        alike = [key for key in known.get(ours, []) if key not in taken]
        if ours not in columns and alike:
            columns[ours] = ours if ours in alike else alike[0]
            if len(alike) > 1:
                twice[ours] = tuple(alike)
    return Plan(tuple(columns.items()), tuple(missing), tuple(twice.items()))


def folded(name: str) -> str:
    """A name as names are compared: without case, and blanks around it."""
    return name.replace("\ufeff", "").strip().casefold()
