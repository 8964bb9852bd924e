"""params.yaml: read, merged and checked; whatever is wrong is one sentence."""

import copy
import difflib
import itertools
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode

from bivrec.errors import SettingsError
from bivrec.settings.paths import project_root
from bivrec.settings.schema import Modality, Range, Settings, Variant
from bivrec.settings.types import check_reads

MAX_PARAMS = 1 << 20  # characters
TAG = "tag:yaml.org,2002:"  # of YAML's own types


class _KeyNotText(ConstructorError):
    """A key that YAML reads as another type than text."""


class _TextKeys(SafeConstructor):
    """Refuses keys that YAML reads as other types than text, as it does 2018, 1.5 and true."""

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[str, Any]:
        for key, _ in node.value:
            if key.tag not in (f"{TAG}str", f"{TAG}merge"):
                shown = f"`{key.value}`" if isinstance(key, ScalarNode) else "in brackets"
                problem = f"YAML reads the key {shown} as {key.tag.removeprefix(TAG)}, not as text"
                remedy = "rename it to a word such as `mine`"
                raise _KeyNotText(None, None, f"{problem}; {remedy}", key.start_mark)
        return super().construct_mapping(node, deep)


@cache
def _parse(text: str, name: str) -> Any:
    """YAML as JSON types; raises SettingsError for aliases that grow without end or form a circle,
    before they are followed."""
    parts, size = [], 0
    try:
        yaml = YAML(typ="safe")
        yaml.Constructor = _TextKeys
        for part in json.JSONEncoder(default=str).iterencode(yaml.load(text)):
            parts.append(part)
            if (size := size + len(part)) > MAX_PARAMS:
                raise ValueError(f"its aliases expand to more than {MAX_PARAMS:,} characters")
        return json.loads("".join(parts))
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = _one_line(getattr(error, "problem", None) or error)
        line = f", line {mark.line + 1}" if mark else ""
        problem = "" if isinstance(error, _KeyNotText) else " is not YAML"
        raise SettingsError(f"{name}{line}{problem}: {reason}") from None
    except RecursionError:
        reason = "it is nested too deeply"
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        reason = _one_line(error)
    remedy = f"correct it (`git diff {name}` shows what changed)"
    raise SettingsError(f"{name} is not a tree of settings ({reason}); {remedy}")


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:160]


def _restore(name: str) -> str:
    return f"restore it with `git checkout {name}`"


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        problem, remedy = "is not UTF-8", "save it as UTF-8"
    except PermissionError:
        problem, remedy = "cannot be read (PermissionError)", "make it readable"
    except OSError as error:
        problem, remedy = f"cannot be read ({type(error).__name__})", _restore(path.name)
    raise SettingsError(f"{path.name} {problem}; {remedy}")


def _params_path() -> Path:
    path = project_root() / "params.yaml"
    if "BIVREC_ROOT" in os.environ and not os.path.lexists(path):
        problem = f"BIVREC_ROOT is {os.environ['BIVREC_ROOT']!r}, where there is no params.yaml"
        raise SettingsError(f"{problem}; set it to the project's folder, or unset it")
    return path


def read_params(path: Path | None = None) -> dict[str, Any]:
    """The tree of params.yaml (YAML 1.2, so that 1e-3 is a number)."""
    path = path or _params_path()
    tree = _parse(_read_text(path), path.name)
    if not isinstance(tree, dict):
        raise SettingsError(f"{path.name} has no settings; {_restore(path.name)}")
    return copy.deepcopy(tree)


def merge(tree: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The tree with the values of dotted keys replaced; raises SettingsError for unknown keys, and
    for a whole section under one key."""
    tree = json.loads(json.dumps(tree))
    for dotted, value in changes.items():
        *parents, last = str(dotted).split(".")
        branch = tree
        for parent in parents:
            branch = branch.get(parent) if isinstance(branch, dict) else None
        if not isinstance(branch, dict) or last not in branch:
            sections = {name: keys for name, keys in tree.items() if isinstance(keys, dict)}
            known = [f"{name}.{key}" for name, keys in sections.items() for key in keys]
            guess = _closest(str(dotted), known) or "; remove it"
            raise SettingsError(f"{where}: there is no setting {dotted!r}{guess}")
        if not parents:
            _refuse_section(last, value, branch[last], where)
        branch[last] = value
    return tree


def _refuse_section(name: str, value: Any, present: Any, where: str) -> None:
    """Raises SettingsError for a value in place of a whole section, whose keys are dotted."""
    if not hasattr(Settings.__dataclass_fields__[name].type, "__dataclass_fields__"):
        return
    keys = value if value and isinstance(value, dict) else present
    key, first = next(iter(keys.items()))
    example = f"{name}.{key}: {json.dumps(first, default=str)}"
    raise SettingsError(f"{where}: {name} is a section; write its keys with dots, as {example}")


def _closest(word: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _fields(path: Sequence[str]) -> Collection[str]:
    """The keys that a section may have, by its path in params.yaml."""
    kind: Any = Settings
    for part in path:
        fields = getattr(kind, "__dataclass_fields__", {})
        kind = fields[part].type if fields else get_args(kind)[-1]
        while hasattr(kind, "__metadata__") or NoneType in get_args(kind):  # Annotated, or None
            kind = get_args(kind)[0]
    return getattr(kind, "__dataclass_fields__", {})


def _unknown_key(path: Sequence[str], tree: Mapping[str, Any]) -> str:
    """What to do about an unknown key."""
    *parents, key = path
    if len(parents) == 2 and parents[0] == "datasets":
        source = str(tree["datasets"][parents[1]].get("source"))
        if source in _fields(parents) and key in _fields((*parents, source)):
            return f"; it belongs to the source: write {source}: {{{key}: ...}}"
    return _closest(key, _fields(parents)) or "; remove it"


def _sentence(error: ValidationError, where: str, tree: Mapping[str, Any]) -> str:
    """The first problem as one sentence; unknown keys come first."""
    unknown = ("unexpected_keyword_argument", "extra_forbidden")
    first = min(error.errors(), key=lambda problem: problem["type"] not in unknown)
    key = ".".join(str(part) for part in first["loc"] if part != "[key]")
    value = json.dumps(first["input"], default=str)
    if first["type"] in unknown:
        return f"{where}: {key}: unknown key{_unknown_key(first['loc'], tree)}"
    if first["type"] in ("missing", "missing_argument"):
        remedy = "add it (`git diff params.yaml` shows what changed)"
        return f"{where}: {key}: the key is missing; {remedy}"
    problem = first["msg"].removeprefix("Value error, ")
    if isinstance(first["input"], dict):  # a rule between keys, which names them itself
        return f"{where}: {key}: {problem}" if key else f"{where}: {problem}"
    return f"{where}: {key}: {value if len(value) < 80 else 'the value'} is refused: {problem}"


def _validate(tree: Mapping[str, Any], where: str) -> Settings:
    try:
        return TypeAdapter(Settings).validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        raise SettingsError(_sentence(error, where, tree)) from None


def pick(known: Mapping[str, Any], name: str, noun: str) -> Any:
    """The entry of that name; raises SettingsError if there is none."""
    if name not in known:
        names = ", ".join(known)
        raise SettingsError(f"params.yaml: there is no {noun} {name!r}; known are {names}")
    return known[name]


def load_settings(
    dataset: str = "planted",
    changes: Mapping[str, Any] | None = None,
    path: Path | None = None,
    profile: str = "default",
) -> Settings:
    """The settings for one dataset: params.yaml, changed by the profile, then by the dataset, then
    by `changes` (dotted keys)."""
    tree = read_params(path)
    of_profile = pick(_validate(tree, "params.yaml").profiles, profile, "profile")
    tree = merge(tree, of_profile, f"params.yaml: profiles.{profile}")
    datasets = _validate(tree, f"params.yaml with profiles.{profile}").datasets
    of_dataset = pick(datasets, dataset, "dataset").settings
    tree = merge(tree, of_dataset, f"params.yaml: datasets.{dataset}.settings")
    tree = merge(tree, changes or {}, "changes")
    return _validate(tree, f"params.yaml with the settings of {dataset}")


@cache
def _adapter(section: str) -> TypeAdapter:
    return TypeAdapter(Settings.__dataclass_fields__[section].type)


def _vary_sections(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """The settings with dotted changes, of which only the sections that change are read again: a
    check of params.yaml takes a second, not ten."""
    names = {str(key).split(".")[0] for key in changes}
    tree = {
        name: _adapter(name).dump_python(getattr(settings, name), mode="json") for name in names
    }
    merged = merge(tree, changes, "changes")
    return replace(
        settings, **{name: _adapter(name).validate_json(json.dumps(merged[name])) for name in names}
    )


def vary(settings: Settings, variant: Variant, name: str = "variant") -> Settings:
    """The settings with a variant's changes."""
    return _change(settings, variant.settings, name)


def _change(settings: Settings, changes: Mapping[str, Any], name: str) -> Settings:
    try:
        return _vary_sections(settings, changes)
    except (KeyError, ValidationError, SettingsError):  # all of the tree gives the sentence
        tree = TypeAdapter(Settings).dump_python(settings, mode="json")
    tree = merge(tree, changes, f"params.yaml: {name}")
    return _validate(tree, f"params.yaml with the settings of {name}")


def can_do_with(settings: Settings, variant: Variant, has: Collection[Modality]) -> bool:
    """Whether a model can be trained on a dataset that has features of these modalities only."""
    varied = vary(settings, variant)
    uses = {"bivrec": "multimodal" in varied.model.views, "popularity": False, "itemknn": False}
    by_inputs = "sasrec", "gru4rec", "comirec-sa", "unisrec"
    uses |= dict.fromkeys(by_inputs, varied.baseline.inputs != "id")
    needed = set(varied.features.modalities)
    if ":" in variant.family:  # a model of one's own
        uses[variant.family] = varied.baseline.inputs != "id"
    return not uses.get(variant.family, True) or set(has) >= needed != set()


def without_modalities(settings: Settings, has: Collection[Modality]) -> Settings:
    """The settings for a dataset that has features of these modalities only, without the models and
    ablations that need others; without any features the ID view remains."""
    used = set(settings.features.modalities) & set(has)
    if len(used) == 2:
        return settings
    modality = "".join(used) or "none"
    changes: dict[str, Any] = {"features.modality": modality}
    if modality == "none":
        changes["model.views"] = ["id"]
    narrow = _change(settings, changes, "the features that are there")
    changes = {}
    for part in ("models", "ablations"):
        names, variants = getattr(settings.studies, part), getattr(settings, part)
        possible = [
            name
            for name in names
            if name not in variants or can_do_with(narrow, variants[name], used)
        ]
        if part == "models" and not possible:
            problem = f"each of studies.models, {list(names)}, reads features that are not there"
            raise SettingsError(f"params.yaml: {problem}; add one that reads ids, as popularity")
        changes[f"studies.{part}"] = possible
    return _change(narrow, changes, "the features that are there")


def without_repeats(settings: Settings) -> Settings:
    """The settings without the ablations that change nothing, as `text-only` where text is all
    there is: each would train the whole model again. An ablation without settings stays."""
    tree = TypeAdapter(Settings).dump_python(settings, mode="json")
    names = [
        name
        for name in settings.studies.ablations
        if name not in settings.ablations
        or not (changes := settings.ablations[name].settings)
        or merge(tree, changes, f"params.yaml: ablations.{name}") != tree
    ]
    if len(names) == len(settings.studies.ablations):
        return settings
    return _change(settings, {"studies.ablations": names}, "the ablations that change something")


def grid_of(choices: Mapping[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Every combination of the choices, each as dotted settings."""
    return [dict(zip(choices, values)) for values in itertools.product(*choices.values())]


def space_of(settings: Settings, family: str) -> dict[str, Range]:
    """The ranges in which the tuning searches a family's settings."""
    space = settings.tuning.space
    return space["every"] | space.get(family, {})


def variants_of(
    settings: Settings, models: Collection[str], ablations: Collection[str], grids: Collection[str]
) -> dict[str, Variant]:
    """These models, ablations, trials of these grids, and the tuning at the ends of its ranges,
    each by its key in params.yaml and, for a trial, its values."""
    variants = {f"models.{name}": pick(settings.models, name, "model") for name in models}
    for name in ablations:
        variants[f"ablations.{name}"] = pick(settings.ablations, name, "ablation")
    for name in grids:
        for trial in grid_of(pick(settings.grids, name, "grid")):
            variant = Variant(family="bivrec", settings=trial)
            variants[f"grids.{name} {json.dumps(trial)}"] = variant
    for name in settings.tuning.models:
        model = pick(settings.models, name, "model")
        for key, bounds in space_of(settings, model.family).items():
            for value in (bounds.low, bounds.high):
                variant = Variant(family=model.family, settings=model.settings | {key: value})
                variants[f"tuning.space {json.dumps({key: value})} of {name}"] = variant
    return variants


_checked: set[str] = set()


def check_params(path: Path | None = None) -> Settings:
    """The default settings; raises SettingsError for anything wrong in any profile, dataset or
    variant, and in the grids that a profile selects. A process checks each text once."""
    default = load_settings(path=path)
    text = _read_text(path or _params_path())
    if text in _checked:
        return default
    for profile in default.profiles:
        studies = load_settings(path=path, profile=profile).studies
        for part in ("models", "ablations", "grids"):
            for name in getattr(studies, part):
                if name not in (known := getattr(default, part)):
                    guess = _closest(name, known) or "; remove it"
                    problem = f"there is no {name!r} under {part}{guess}"
                    raise SettingsError(f"params.yaml: studies.{part}: {problem}")
        pairs = studies.transfers.values()
        names = [
            *studies.datasets,
            *(name for pair in pairs for name in (pair.source, pair.target)),
        ]
        if profile == "default":
            names += default.datasets
        for name in dict.fromkeys(names):
            _check_dataset(name, profile, path)
    _checked.add(text)
    return default


def _check_dataset(name: str, profile: str, path: Path | None) -> None:
    """Checks every variant of a dataset under a profile, with the grids that it selects, and that
    the default profile, whose prepared data the profile reads, prepares the same."""
    settings = load_settings(name, path=path, profile=profile)
    variants = variants_of(settings, settings.models, settings.ablations, settings.studies.grids)
    for label, variant in variants.items():
        try:
            vary(settings, variant, f"{label} on {name}")
            check_reads(variant.family, variant.settings, label)
        except SettingsError as error:
            if not label.startswith("grids."):
                raise
            key, place = label.split(" ")[0], f"datasets.{name}.settings"
            raise SettingsError(f"{error} ({name} may have {key} of its own in {place})") from None
    default = load_settings(name, path=path)
    same = all(
        getattr(settings, k) == getattr(default, k) for k in ("datasets", "split", "features")
    )
    if default.datasets[name].source == "planted":
        return
    if not same or not _folds(settings) <= _folds(default):
        needed = "datasets, split, features and the folds of studies.seeds must be the default's"
        problem = f"{needed}, which prepares the data"
        raise SettingsError(f"params.yaml: profiles.{profile}: {name}: {problem}")


def _folds(settings: Settings) -> set[int]:
    seeds = (*settings.studies.seeds, *settings.tuning.seeds)
    return {seed % settings.split.num_folds for seed in seeds}
