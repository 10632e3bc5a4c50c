"""The section of an experiment that says when it runs by itself."""

from __future__ import annotations

import difflib
import re
import zoneinfo
from typing import Literal

from pydantic import Field, field_validator

from tasks.config.section import Section

CRON = ("minute", "hour", "day", "month", "weekday")


def _trouble_with_cron(value: str) -> str | None:
    """What is wrong with a cron, by the library that Prefect reads it with (Prefect has a copy of it inside)."""
    from croniter import CroniterBadDateError, croniter  # imported here: most confs have no schedule

    fields = value.split()
    if len(fields) != len(CRON):  # croniter would also take @daily, and seconds and years as further fields
        return f"It has {len(fields)} field{'s' * (len(fields) != 1)} and not {len(CRON)}"
    for place, (name, field) in enumerate(zip(CRON, fields, strict=True)):
        alone = " ".join(field if place == other else "*" for other in range(len(CRON)))
        # Prefect takes no random and no hashed times, which croniter writes as R and H.
        if re.search(r"\b[rh]\b", field, re.IGNORECASE) or not croniter.is_valid(alone):
            return f"The {name} cannot be {field!r}"
    try:
        croniter(value).get_next()
    except CroniterBadDateError:
        return "This day never comes"
    return None


class Schedule(Section):
    """When the deployed pipeline runs by itself."""

    cron: str | None = Field(None, description="minute hour day month weekday; null: it runs only when somebody asks")
    timezone: str = Field("UTC", description="the time zone of the cron, such as Europe/Berlin")
    busy: Literal["wait", "skip"] = Field(
        "wait", description="if a run is active, the next one waits or is skipped; if several are due, only one runs"
    )

    @field_validator("cron")
    @classmethod
    def _comes_again(cls, value: str | None) -> str | None:
        if value is not None and (trouble := _trouble_with_cron(value)):
            raise ValueError(f"{trouble}. Expected {' '.join(CRON)}, such as '0 2 * * *' for two o'clock every night")
        return value

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        known = zoneinfo.available_timezones()
        if value not in known:
            near = difflib.get_close_matches(value, known, n=1) or ["Europe/Berlin"]
            raise ValueError(f"Expected a name of the time zone database, such as {near[0]}")
        return value
