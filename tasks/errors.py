"""The one kind of error that a user can mend."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """What was wrong, what was expected and what to do, in one message; the command line exits with status 2."""


class ModelGoneError(UserError):
    """A saved model that nobody can ask any more: its base model is gone or is another one now."""


@contextmanager
def writing_to(place: Path, remedy: str = "Give another place.") -> Iterator[None]:
    """Within it, a place of the user's that cannot be written is said as such; a full disk is none of its faults."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"{place} cannot be written: {error.strerror}. {remedy}") from error
