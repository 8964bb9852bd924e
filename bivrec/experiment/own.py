"""Models of one's own: classes in files of own/, which params.yaml names as `own/file.py:Class`."""

import hashlib
import inspect
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bivrec.baselines.neural import NeuralBaseline
from bivrec.errors import SettingsError
from bivrec.model.base import Batch, ItemRows, Mask, SequentialModel, Tables, pad
from bivrec.settings import Settings, project_root

GUIDE = "docs/own_model.md"
REGISTERED = "an attribute of the model, an nn.Parameter or an nn.ModuleList"

_loaded: dict[str, None] = {}  # families, in the order of their loading


def is_own(family: str) -> bool:
    """Whether a family names a class in a file of own/."""
    return ":" in family


def own_code() -> str:
    """The SHA-256 of every Python file of own/: one may import another."""
    files = sorted((project_root() / "own").rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def loaded_families() -> list[str]:
    """The families that this process has loaded from own/."""
    return list(_loaded)


def load_classes(families: Iterable[str]) -> None:
    """Loads the families that can be loaded, so that a process can receive their models."""
    for family in families:
        with suppress(SettingsError):
            load_class(family)


def load_class(family: str) -> type[SequentialModel]:
    """The class of a family `own/file.py:Class`; a file that has changed is read again.

    Raises SettingsError if the file or the class is missing, if the file cannot be imported, and
    if the class is not a model, lacks methods or overrides one that is not called.
    """
    name, _, class_name = family.partition(":")
    module = _import_file(project_root() / name, family)
    model_class = getattr(module, class_name, None)
    if not inspect.isclass(model_class):
        known = [key for key, value in vars(module).items() if _is_defined_in(value, module)]
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise SettingsError(f"{name} has no class {class_name}; {has}: correct the family {family}")
    if not issubclass(model_class, SequentialModel):
        problem = f"{name}: {class_name} is not a model"
        raise SettingsError(f"{problem}; derive it from NeuralBaseline, as {GUIDE} shows")
    if missing := sorted(getattr(model_class, "__abstractmethods__", ())):
        problem = f"{name}: {class_name} has no method {' and no method '.join(missing)}"
        raise SettingsError(f"{problem}; define it, as {GUIDE} shows")
    if model_class.score is not SequentialModel.score:
        problem = f"{name}: {class_name} overrides score, which the ranking does not call"
        raise SettingsError(f"{problem}; override score_catalogue ({GUIDE})")
    _loaded[family] = None
    return model_class


def _is_defined_in(value: Any, module: ModuleType) -> bool:
    return inspect.isclass(value) and value.__module__ == module.__name__


def _import_file(path: Path, family: str) -> ModuleType:
    """The file as a module, named after its content so that processes agree on it."""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError as error:
        problem = f"own/{path.name} cannot be read ({type(error).__name__})"
        raise SettingsError(f"{problem}; create it, or correct the family {family}") from None
    name = f"own_{path.stem}_{digest}"
    if name not in sys.modules:
        spec = spec_from_file_location(name, path)
        sys.modules[name] = module = module_from_spec(spec)
        try:
            with _one_sentence(path):
                spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def errors_of(family: str) -> AbstractContextManager[None]:
    """A context in which an error of a family's file becomes one that names the line."""
    path = project_root() / family.partition(":")[0]
    return _one_sentence(path, everything=False) if is_own(family) else nullcontext()


@contextmanager
def _one_sentence(path: Path, everything: bool = True) -> Iterator[None]:
    """Turns what a file's code raises into an error of ours that names the line.

    `everything` includes errors that did not pass through the file.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        if not (lines or everything):
            raise
        if isinstance(error, SyntaxError) and error.filename == str(path):
            lines.append(error.lineno)
        where = f"own/{path.name}" + (f", line {lines[-1]}" if lines else "")
        reason = " ".join(str(getattr(error, "msg", error)).split())[:160]
        problem = f"{where}: {type(error).__name__}{reason and ': '}{reason}"
        raise SettingsError(f"{problem}; correct the file ({GUIDE})") from None


def build_own(family: str, settings: Settings, num_items: int, features: dict) -> SequentialModel:
    """An untrained model of one's own, tried on three histories.

    Raises SettingsError if its code fails or what it returns does not have the needed shape.
    """
    model_class = load_class(family)
    name, _, class_name = family.partition(":")
    with _one_sentence(project_root() / name):
        model = model_class(settings, num_items, features)
        problem = find_problem(model, num_items)
    if problem:
        raise SettingsError(f"{name}: {class_name}: {problem} ({GUIDE})")
    return model


def find_problem(model: SequentialModel, num_items: int) -> str:
    """What an untrained model does wrong with three histories, two of which differ in their second
    half; "" if nothing."""
    length, parameters = model.max_length, dict(model.named_parameters())
    half, last = length // 2, num_items - 1
    rows = [0] * length, [0] * half + [last] * (length - half), [0] * max(half, 1)
    histories = [np.array(row) for row in rows]
    items, mask = pad(histories, length, model.multiple)
    with torch.no_grad():
        problem = _problem_of_states(model.eval(), items, mask)
        scores = {} if problem else model.score(histories)
    for view, values in scores.items():
        problem = problem or _problem_of_shape(f"the score of view {view}", values, (3, num_items))
    return problem or _problem_of_loss(model.train(), items, mask, parameters)


def _problem_of_loss(
    model: SequentialModel, items: ItemRows, mask: Mask, parameters: dict[str, Tensor]
) -> str:
    """Of a step on these rows: the loss's shape, and whether it trains these parameters alone."""
    model.anneal(0.0)
    batch = Batch(items, mask, torch.zeros_like(items), mask, torch.zeros(3, dtype=torch.int64))
    loss = model.loss(batch)
    if problem := _problem_of_shape("`loss`", loss, ()):
        return problem
    trained = {id(leaf): leaf for leaf in _leaves(loss)}
    if not trained:
        return "`loss` depends on no parameter, so nothing is trained"
    known = {id(parameter) for parameter in parameters.values()}
    for key, leaf in trained.items():
        if key not in known:
            problem = f"a tensor of shape {format_shape(tuple(leaf.shape))} that needs a gradient"
            return f"{problem} is not a parameter of the model; make it in `build`, as {REGISTERED}"
    for name, parameter in parameters.items():
        if parameter.requires_grad and id(parameter) not in trained:
            problem = f"`loss` does not depend on the parameter {name}, so it is not trained"
            return f"{problem}; use it, remove it or set its requires_grad to False"
    return ""


def _leaves(loss: Tensor) -> list[Tensor]:
    """The tensors that receive a gradient from a loss."""
    nodes, seen, leaves = [loss.grad_fn], set(), []
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            leaves += [node.variable] if hasattr(node, "variable") else []
            nodes += [following for following, _ in node.next_functions]
    return leaves


def _problem_of_states(model: SequentialModel, items: ItemRows, mask: Mask) -> str:
    """Of the interests after every position: their shape, and whether they look ahead or differ
    from call to call."""
    tables, method = model.tables(), "`read`" if isinstance(model, NeuralBaseline) else "interests"
    one, other, again = (
        _states(model, items[k : k + 1], mask[k : k + 1], tables) for k in (0, 1, 0)
    )
    for view, states in _states(model, items, mask, tables).items():
        dim, count = tables[view].shape[1], states.shape[2] if _axes(states) == 4 else "interests"
        if problem := _problem_of_shape(method, states, (*items.shape, count, dim), mask):
            return problem
        if not torch.allclose(one[view], again[view], atol=1e-5, equal_nan=True):
            problem = f"{method} returns other numbers when it is called again"
            return f"{problem}; in evaluation mode it must be deterministic"
        half = model.max_length // 2
        if not torch.allclose(one[view][:, :half], other[view][:, :half], atol=1e-5):
            problem = f"what {method} returns after an item changes with later items"
            return f"{problem}; a position may depend only on the items up to it"
        if not torch.allclose(states[0, :half], one[view][0, :half], atol=1e-4):
            problem = f"what {method} returns for a history changes with the other histories"
            return f"{problem} of the batch; each row must be read on its own"
    return ""


def _states(model: SequentialModel, items: ItemRows, mask: Mask, tables: Tables) -> dict[str, Any]:
    if isinstance(model, NeuralBaseline):
        return {model.view: model.read(items, mask, tables[model.view])}
    return model.interests(items, mask)


def _axes(values: Any) -> int:
    return values.ndim if isinstance(values, Tensor) else 0


def _problem_of_shape(what: str, values: Any, shape: tuple, mask: Mask | None = None) -> str:
    """Why a value is not a tensor of this shape, of finite numbers (within `mask`); "" if it is
    one."""
    if not isinstance(values, Tensor):
        return (
            f"{what} returns a {type(values).__name__}, not a tensor of shape {format_shape(shape)}"
        )
    if tuple(values.shape) != shape:
        found = format_shape(tuple(values.shape))
        return f"{what} returns the shape {found}, not {format_shape(shape)}"
    values = values if mask is None else values[mask]
    if not (values.is_floating_point() and values.isfinite().all()):
        return f"{what} returns numbers that are not finite floating-point numbers"
    return ""


def format_shape(shape: tuple) -> str:
    """A shape as a reader writes it."""
    return f"({', '.join(map(str, shape))})"
