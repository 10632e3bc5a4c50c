"""The one kind of error that a user can mend."""


class UserError(Exception):
    """What was wrong, what was expected and what to do, in one message; the command line exits with status 2."""


class ModelGoneError(UserError):
    """A saved model that nobody can ask any more: its base model is gone or is another one now."""
