"""The one kind of error that a user can mend."""


class UserError(Exception):
    """What was wrong, what was expected and what to do, in one message; the command line exits with status 2."""
