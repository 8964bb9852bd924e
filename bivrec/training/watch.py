"""A user's function that is called after each validation."""

import os
from collections.abc import Callable
from importlib import import_module

from bivrec.errors import SettingsError

VARIABLE = "BIVREC_ON_EVALUATE"


def on_evaluate() -> Callable | None:
    """The function that BIVREC_ON_EVALUATE names as `module:function`; None without the variable.

    It is called as `function(dataset, model, seed, step, metrics)` after each validation, in
    whichever process trains. Raises SettingsError if there is no such function.
    """
    if not (named := os.environ.get(VARIABLE)):
        return None
    module, _, name = named.partition(":")
    try:
        function = getattr(import_module(module), name)
        if not callable(function):
            raise TypeError(f"{name} is not a function")
    except Exception as error:  # also whatever the module raises
        reason = " ".join(str(error).split()) or type(error).__name__
        remedy = "name a function that can be imported, as bivrec.explore.live:to_dvclive"
        raise SettingsError(f"{VARIABLE} is {named!r}: {reason}; {remedy}") from None
    return function
