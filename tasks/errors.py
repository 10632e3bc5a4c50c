"""The one kind of error that a user can mend, and what no message may hold."""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

SECRET = 8  # characters: what is shorter is a word for a server that asks for no key, and may be part of any text


class UserError(Exception):
    """What was wrong, what was expected and what to do, in one message; the command line exits with status 2."""


class ModelGoneError(UserError):
    """A saved model that nobody can ask any more: its base model is gone or is another one now."""


def masked(text: str, secret: str) -> str:
    """A text without a secret, which somebody else's words may repeat, also in an address."""
    secret = secret.strip()  # whoever uses it has left out the line end of the file that it came from
    if len(secret) < SECRET:
        return text
    return text.replace(secret, "***").replace(quote(secret, safe=""), "***")


@contextmanager
def writing_to(place: Path, remedy: str = "Give another place.") -> Iterator[None]:
    """Within it, a place of the user's that cannot be written is said as such; a full disk is none of its faults."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"{place} cannot be written: {error.strerror}. {remedy}") from error


def check_writable(folder: Path, remedy: str) -> None:
    """Refuse a folder that cannot be made or written before anything is computed that is to go there.

    Raises:
        UserError: it cannot be written.
    """
    with writing_to(folder, remedy):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"0" * 4096)
