"""Temporary replacement of a model's methods by fast forms."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import nn


@contextmanager
def replace_methods(forms: Mapping[nn.Module, tuple[str, Callable]]) -> Iterator[None]:
    """A context in which the named method of each module is replaced by the given form."""
    for module, (name, form) in forms.items():
        setattr(module, name, form)
    try:
        yield
    finally:
        for module, (name, _) in forms.items():
            vars(module).pop(name, None)  # another thread may have ended first
