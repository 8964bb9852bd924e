"""params.yaml read, merged and checked: one sentence for whatever is wrong."""

import copy
import difflib
import itertools
import json
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bivrec.errors import SettingsError
from bivrec.settings.paths import project_root
from bivrec.settings.schema import Modality, Settings, Variant

MAX_PARAMS = 1 << 20


@cache
def _parse(text: str, name: str) -> Any:
    """The tree in JSON's types; aliases that grow without end or turn in a circle are refused before they are followed."""
    parts, size = [], 0
    try:
        for part in json.JSONEncoder(default=str).iterencode(YAML(typ="safe").load(text)):
            parts.append(part)
            if (size := size + len(part)) > MAX_PARAMS:
                raise ValueError(
                    f"it holds more than {MAX_PARAMS:,} characters once its aliases are followed"
                )
        return json.loads("".join(parts))
    except YAMLError as error:
        mark, told = (
            getattr(error, "problem_mark", None),
            getattr(error, "problem", None) or str(error),
        )
        raise SettingsError(
            f"{name}{f', line {mark.line + 1}' if mark else ''} is not YAML: {' '.join(told.split())[:160]}"
        ) from None
    except (ValueError, TypeError, RecursionError, AttributeError, OverflowError) as error:
        told = (
            "it is nested too deep"
            if isinstance(error, RecursionError)
            else " ".join(str(error).split())[:160]
        )
        raise SettingsError(
            f"{name} is no tree of settings ({told}); restore it with `git checkout {name}`"
        ) from None


def read_params(path: Path | None = None) -> dict[str, Any]:
    """The tree of params.yaml (YAML 1.2, so that 1e-3 is a number)."""
    path = path or project_root() / "params.yaml"
    try:
        tree = _parse(path.read_text("utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path.name} cannot be read ({error.__class__.__name__}); restore it with `git checkout {path.name}`"
        ) from None
    if not isinstance(tree, dict):
        raise SettingsError(
            f"{path.name} holds no settings; restore it with `git checkout {path.name}`"
        )
    return copy.deepcopy(tree)


def merge(tree: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The tree with dotted keys replaced; a key that is not there is refused."""
    tree = json.loads(json.dumps(tree))
    for dotted, value in changes.items():
        *parents, last = str(dotted).split(".")
        branch = tree
        for parent in parents:
            branch = branch.get(parent) if isinstance(branch, dict) else None
        if not isinstance(branch, dict) or last not in branch:
            known = [
                f"{name}.{key}"
                for name, keys in tree.items()
                if isinstance(keys, dict)
                for key in keys
            ]
            raise SettingsError(
                f"{where}: there is no setting {dotted!r}{_closest(str(dotted), known)}"
            )
        branch[last] = value
    return tree


def _closest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _sentence(error: ValidationError, where: str) -> str:
    """The first thing wrong, as one sentence."""
    unknown = ("unexpected_keyword_argument", "extra_forbidden")
    first = min(error.errors(), key=lambda told: told["type"] not in unknown)
    key = ".".join(str(part) for part in first["loc"])
    value = json.dumps(first["input"], default=str)
    if first["type"] in unknown:
        known = [
            name
            for kind in Settings.__dataclass_fields__.values()
            for name in getattr(kind.type, "__dataclass_fields__", ())
        ]
        return (
            f"{where}: {key}: unknown key{_closest(str(first['loc'][-1]), known) or '; remove it'}"
        )
    if first["type"] in ("missing", "missing_argument"):
        return f"{where}: {key}: the key is missing; add it (`git diff params.yaml` shows what changed)"
    told = first["msg"].removeprefix("Value error, ")
    if isinstance(first["input"], dict):  # a rule between keys, which names them itself
        return f"{where}: {key}: {told}" if first["loc"] else f"{where}: {told}"
    return f"{where}: {key}: {value if len(value) < 80 else 'the value'} is refused: {told}"


def _validate(tree: Mapping[str, Any], where: str) -> Settings:
    try:
        return TypeAdapter(Settings).validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        raise SettingsError(_sentence(error, where)) from None


def pick(known: Mapping[str, Any], name: str, kind: str) -> Any:
    """The entry of that name; one that is not there is refused."""
    if name not in known:
        raise SettingsError(
            f"params.yaml: there is no {kind} {name!r}; known are {', '.join(known)}"
        )
    return known[name]


def load_settings(
    dataset: str = "planted",
    changes: Mapping[str, Any] | None = None,
    path: Path | None = None,
    profile: str = "default",
) -> Settings:
    """The settings for one dataset: params.yaml, then the profile's, then the dataset's own, then `changes` (dotted keys)."""
    tree = read_params(path)
    chosen = pick(_validate(tree, "params.yaml").profiles, profile, "profile")
    tree = merge(tree, chosen, f"params.yaml: profiles.{profile}")
    own = pick(
        _validate(tree, f"params.yaml with profiles.{profile}").datasets, dataset, "dataset"
    ).settings
    tree = merge(
        merge(tree, own, f"params.yaml: datasets.{dataset}.settings"), changes or {}, "changes"
    )
    return _validate(tree, f"params.yaml with the settings of {dataset}")


def vary(settings: Settings, variant: Variant, name: str = "variant") -> Settings:
    """The settings with a variant's differences."""
    tree = TypeAdapter(Settings).dump_python(settings, mode="json")
    return _validate(
        merge(tree, variant.settings, f"params.yaml: {name}.settings"),
        f"params.yaml with the settings of {name}",
    )


def can_do_with(settings: Settings, variant: Variant, has: Collection[Modality]) -> bool:
    """Whether a model can be trained on a dataset that has features of these modalities only."""
    own = vary(settings, variant)
    reads = {"bivrec": "multimodal" in own.model.views, "popularity": False, "itemknn": False}
    reads |= dict.fromkeys(("sasrec", "gru4rec", "comirec-sa"), own.baseline.inputs != "id")
    return not reads.get(variant.family, True) or set(has) >= set(own.features.modalities) != set()


def without_modalities(settings: Settings, has: Collection[Modality]) -> Settings:
    """The settings of a dataset that has features of these modalities only: the others are left out, and every model and
    ablation that cannot do without them; with no features at all the ID view is left."""
    if set(settings.features.modalities) <= set(has):
        return settings
    modality = "".join(set(settings.features.modalities) & set(has)) or "none"
    changes = {
        "features.modality": modality,
        **({"model.views": ["id"]} if modality == "none" else {}),
    }
    narrow = vary(settings, Variant(family="bivrec", settings=changes))
    parts = {
        f"studies.{part}": [
            name
            for name in getattr(settings.studies, part)
            if can_do_with(narrow, getattr(settings, part)[name], has)
        ]
        for part in ("models", "ablations")
    }
    return vary(narrow, Variant(family="bivrec", settings=parts))


def grid_of(choices: Mapping[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Every combination of the choices, each as dotted settings."""
    return [dict(zip(choices, values)) for values in itertools.product(*choices.values())]


def check_params(path: Path | None = None) -> Settings:
    """Reads params.yaml as every profile, dataset and variant would see it."""
    default = load_settings(path=path)
    for profile in default.profiles:
        studies = load_settings(path=path, profile=profile).studies
        for part in ("models", "ablations", "grids"):
            for name in getattr(studies, part):
                if name not in (known := getattr(default, part)):
                    raise SettingsError(
                        f"params.yaml: studies.{part}: there is no {name!r} under {part}{_closest(name, list(known))}"
                    )
        named = [
            *studies.datasets,
            *(name for pair in studies.transfers.values() for name in (pair.source, pair.target)),
        ]
        for name in dict.fromkeys(named + (list(default.datasets) if profile == "default" else [])):
            seen, plain = (
                load_settings(name, path=path, profile=profile),
                load_settings(name, path=path),
            )
            for label, variant in {**seen.models, **seen.ablations}.items():
                vary(seen, variant, label)
            for label, choices in seen.grids.items():
                for trial in grid_of(choices):
                    vary(seen, Variant(family="bivrec", settings=trial), f"grids.{label}")
            folds, encoded = (
                {seed % plain.split.num_folds for seed in settings.studies.seeds}
                for settings in (seen, plain)
            )
            same = folds <= encoded and all(
                getattr(seen, key) == getattr(plain, key)
                for key in ("datasets", "split", "features")
            )
            if plain.datasets[name].source != "planted" and not same:
                needed = "datasets, split, features and the folds of studies.seeds must be the default's, which prepares the data"
                raise SettingsError(f"params.yaml: profiles.{profile}: {name}: {needed}")
    return default
