"""What to do about errors that come from outside: a full disk, too little memory, a database that is locked, a server
that is gone."""

from __future__ import annotations

import errno
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tasks.errors import masked
from tasks.paths import PROJECT, cache_folder

SAME = "The same command goes on where this one stopped."
# Patterns of messages, and what to do about them. The first one that matches the error, or its cause, gives the advice.
REMEDIES = (
    (
        "disk is full|No space left on device|Disk quota exceeded",  # of SQLite; of libraries with errors of their own
        "The disk is full ({}). Make room. Finished work is kept, and the same command goes on.",
    ),
    (
        "readonly database",
        "Something cannot be written ({}). Fix its permissions, or point tracking.* at another place.",
    ),
    (
        "database is locked",
        f"Another process holds MLflow's database ({{}}). Wait until it is done, or stop it. {SAME}",
    ),
    (
        r"out-of-date database schema|Can't locate revision",
        "MLflow's database was written by another version of MLflow ({}). By an older one: copy the database, then run "
        "`.venv/bin/mlflow db upgrade URI` once. By a newer one: install that one, or point tracking.uri elsewhere.",
    ),
    (
        # The last one: a command was interrupted while it made the database, which takes seconds.
        r"file is not a database|disk image is malformed|no such (table|column)|table \S+ already exists",
        "MLflow's database is damaged, or half made ({}). Put back a copy of it. Or move it away; then everything is "
        "computed again.",
    ),
    (
        r"password authentication failed|Access denied for user",
        f"The database of tracking.uri refused its user or password ({{}}). Correct the variable it names. {SAME}",
    ),
    (
        r"API request to \S+ failed with (exception|timeout)|server closed the connection|could not connect to server"
        r"|connection to server at|Can't connect to",
        "The server of tracking.uri cannot be reached, or itself cannot reach its database or store ({}). Start it, or "
        f"correct the address. {SAME}",
    ),
    (
        r"not in a valid JSON format|INTERNAL_ERROR: Response: \{'detail'|failed with error code 404",
        "tracking.uri names a server that is no MLflow server ({}). Correct the address.",
    ),
    (
        r"NoSuchBucket|bucket does not exist",
        f"The bucket of tracking.artifacts is not there ({{}}). Make it, or correct its name. {SAME}",
    ),
    (
        r"InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied|ExpiredToken|Unable to locate credentials",
        "The store of tracking.artifacts let nobody in ({}). Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, new ones "
        f"where they have expired, and AWS_ENDPOINT_URL unless it is Amazon's. {SAME}",
    ),
    (
        r"failed with error code 40[13]|40[13] Client Error",
        "The server of tracking.uri refused to let this machine in ({}). Set MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN.",
    ),
    (
        r"No module named '(psycopg2?|pymysql|MySQLdb|pyodbc|boto3|google|azure)",
        "tracking.* needs a package that is not installed ({}). Install it into .venv with pip.",
    ),
    (
        "Timed out while attempting to connect to ephemeral",
        "Prefect's temporary server did not start ({}). Its database lies in PREFECT_HOME (~/.prefect by default), or "
        f"where PREFECT_SERVER_DATABASE_CONNECTION_URL says. See that it can be reached and written there. {SAME}",
    ),
    (
        "No Prefect API URL provided",
        "Prefect has no server ({}) and is not allowed a temporary one. Set PREFECT_API_URL, or unset "
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.",
    ),
    (
        r"Failed to reach API at|All connection attempts failed"
        r"|^\[Errno 111\] Connection refused$",  # of httpx, which here only Prefect's client speaks through
        "Prefect's server cannot be reached ({}). Start it. To work without it, unset PREFECT_API_URL, or take it out "
        f"of Prefect's profile: `prefect config view` shows where it comes from. {SAME}",
    ),
    (
        r"(?i)out of memory|can't allocate memory|not enough memory|unable to allocate|^MemoryError$",
        "There is too little memory ({}). End other programs, or ask for less at once: where a language model answers, "
        f"lower finetune.answer.batch_tokens, or take a smaller finetune.base. {SAME}",
    ),
)


def remedy(error: BaseException | None) -> str | None:
    """What to do about an error that comes from outside, however deep its cause lies; None for any other error."""
    for cause in _causes(error):
        # A database's error goes on with its whole query, and one about memory may say nothing.
        said = (str(cause).strip() or type(cause).__name__).partition("\n")[0][:200]
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return REMEDIES[0][1].format(said)
        if isinstance(cause, OSError) and cause.errno in (errno.EROFS, errno.EACCES):
            return f"Something cannot be read or written ({said}). Fix its permissions{_or_elsewhere(cause)}."
        if isinstance(cause, tomllib.TOMLDecodeError):  # nobody else reads such files here
            return f"A settings file of Prefect is no TOML ({said}). Mend profiles.toml in PREFECT_HOME (~/.prefect)."
        for pattern, advice in REMEDIES:
            if re.search(pattern, said):
                return advice.format(said)
    return None


def _or_elsewhere(error: OSError) -> str:
    """Which setting names another place than the one that is closed, if it is one that we chose."""
    place = Path(os.fsdecode(error.filename)).absolute() if isinstance(error.filename, str | bytes) else Path()
    if place.is_relative_to(cache_folder().absolute()):
        return ", or point PRICEWRIGHT_CACHE at another folder"
    ours = PROJECT / "mlruns"
    if any(place.is_relative_to(ours / name) for name in ("mlflow.db", "artifacts")):
        return ", or point tracking.* at another place"
    # Locks and trainings that go on lie there wherever tracking.* points.
    return ", or use a checkout of your own" if place.is_relative_to(ours) else ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def hidden(text: str) -> str:
    """A text without the keys of the environment, which somebody else's message may repeat, also in an address."""
    for name, value in os.environ.items():
        if re.search("KEY|TOKEN|SECRET|PASSWORD", name):
            text = masked(text, value)
    return text
