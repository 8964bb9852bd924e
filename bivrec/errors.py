"""Errors that a user can cause: each message names the file or key, the value, and what to do."""

RESTORE = "restore it with `make restore`"  # what to do about a damaged file of data/


class SettingsError(ValueError):
    """A setting that cannot be used."""


class LeftOut(SettingsError):
    """A study that needs features which the dataset lacks."""


class Diverged(ValueError):
    """A training whose loss is not finite."""


class DataError(ValueError):
    """Data that cannot be used."""


class NotebookError(RuntimeError):
    """A notebook that failed; the message names the cell and its error."""
