"""Fast forms in place of a model's methods, for a while."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import nn


@contextmanager
def replaced(forms: Mapping[nn.Module, tuple[str, Callable]]) -> Iterator[None]:
    """Within it, the named method of each module is the given form."""
    for module, (name, form) in forms.items():
        setattr(module, name, form)
    try:
        yield
    finally:
        for module, (name, _) in forms.items():
            vars(module).pop(name, None)  # another thread may have ended first
