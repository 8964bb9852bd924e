"""What a user can get wrong, each with a sentence that names the file or key, the value and the mend."""


class SettingsError(ValueError):
    """A setting that cannot be used; the message names the file, the key, the value and the mend."""


class LeftOut(SettingsError):
    """A study that cannot be made of a dataset, which lacks the features that it is about."""


class DataError(ValueError):
    """Data that cannot be used; the message names the file, the line, the value and the mend."""


class NotebookError(RuntimeError):
    """A notebook that did not run to its end; the message names the cell and what it said."""
