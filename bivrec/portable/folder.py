"""A trained model as a folder with all that recommending needs, for this code and later code."""

import json
from numbers import Integral
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save

from bivrec.data.domain import Features
from bivrec.data.download import file_hash
from bivrec.data.sequences import load_table, save_table
from bivrec.errors import DataError, SettingsError
from bivrec.experiment.registry import FAMILIES, Trained
from bivrec.model.base import SequentialModel
from bivrec.model.embedding import ItemTable
from bivrec.outputs import write_atomically
from bivrec.portable.card import write_card
from bivrec.portable.files import replacing
from bivrec.portable.recommender import ITEM_COLUMNS, Recommender, check_recommender, load_trained
from bivrec.settings import CrossView, Settings, Training, project_root

FORMAT = 1  # of the folder; another one is refused
DESCRIPTION, ITEMS, WEIGHTS = "bivrec.json", "items.parquet", "model.safetensors"
CARD = "README.md"
GRAPH = ("model.onnx", "model.onnx.data")  # the second for a large model
SECTIONS = ("model", "baseline")  # of the settings: what a model reads to score
# values of the keys that older exports lack, by section
ADDED: dict[str, dict[str, Any]] = {"model": {"information_within": "history"}, "baseline": {}}
HUB = "hf://"


def load(
    source: str | Path = "planted",
    model: str = "bivrec",
    seed: int | None = None,
    profile: str = "default",
    path: str | Path | None = None,
) -> Recommender:
    """A trained model: of a dataset, or the one that an exported folder holds.

    `source` is a dataset of params.yaml, a folder that `export` wrote, or `hf://user/name`, such a
    folder on the Hugging Face Hub. The other arguments choose a model of a dataset, from the
    checkpoint of `make repro` or the one at `path`; `seed=None` is the first seed of the studies.
    Models of planted, popularity and ItemKNN have no checkpoints: they are trained here, in
    seconds. Raises DataError if a file is missing, damaged, or of other code, data, settings or
    format."""
    check_choice(source, model, seed, profile)
    if not (isinstance(source, Path) or "/" in source or (Path(source) / DESCRIPTION).is_file()):
        check_project(source)
        return load_trained(source, model, None if seed is None else int(seed), profile, path)
    if (model, seed, profile, path) != ("bivrec", None, "default", None):
        raise DataError(f"{source} holds one model: give `load` the folder alone")
    return load_folder(find_folder(source))


def check_choice(source: Any, model: Any, seed: Any, profile: Any) -> None:
    """Raises DataError for arguments of `load` of a wrong type."""
    if not isinstance(source, (str, Path)):
        raise DataError(f"source is {source!r:.60}; give the name of a dataset or a folder")
    for name, value in (("model", model), ("profile", profile)):
        if not isinstance(value, str):
            raise DataError(f"{name} is {value!r:.60}; give its name")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, Integral)):
        raise DataError(f"seed is {seed!r:.60}; give a whole number, or None for the first")


def check_project(name: str) -> None:
    """Raises DataError for a dataset outside a project, where it may be meant as a folder."""
    try:
        project_root()
    except SettingsError as error:
        lacks = f"the folder {name} has no file {DESCRIPTION}"
        problem = lacks if Path(name).is_dir() else f"there is no folder {name}"
        raise DataError(f"{problem}, and as a dataset it needs a project: {error}") from None


def find_folder(source: str | Path) -> Path:
    """A folder, or the local copy of one on the Hugging Face Hub (`hf://user/name@revision`)."""
    if not str(source).startswith(HUB):
        return Path(source)
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        remedy = "`pip install huggingface_hub`, or download the folder and give its path"
        raise DataError(f"{source} needs the package huggingface_hub; {remedy}") from None
    name, _, revision = str(source).removeprefix(HUB).partition("@")
    files = [DESCRIPTION, ITEMS, WEIGHTS, CARD]
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=files))
    except (OSError, ValueError) as error:
        problem = f"cannot be downloaded ({type(error).__name__})"
        raise DataError(f"{source} {problem}; check its name and the connection") from None


def export(recommender: Recommender, folder: str | Path) -> None:
    """Writes a trained model into a folder: weights and the features it reads, settings, items, and
    a model card; removes the model.onnx of an earlier export. Any code that reads this format
    (`FORMAT`) loads it.

    Raises DataError for a model that only counts interactions, for a class in own/, and for a
    folder with other files."""
    check_recommender(recommender)
    trained, folder = recommender.trained, check_folder(folder)
    model = trained.model
    if not isinstance(model, SequentialModel):
        raise DataError(f"{trained.name} has no weights to export; export a model that is trained")
    family = next((name for name, kind in FAMILIES.items() if kind is type(model)), None)
    if family is None:
        problem = f"{trained.name} is a class in own/, which the folder would lack"
        raise DataError(f"{problem}; move it into bivrec/baselines to export it")
    card = write_card(recommender)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = model.state_dict()
    for name, (values, mask) in features_of(model).items():
        tensors |= {f"features.{name}.values": values, f"features.{name}.mask": mask}
    for name in GRAPH:
        (folder / name).unlink(missing_ok=True)
    with replacing(folder / WEIGHTS) as part:
        part.write_bytes(save({name: x.contiguous().cpu() for name, x in tensors.items()}))
    with replacing(folder / ITEMS) as part:
        save_table(recommender.items, part)
    description = {
        "format": FORMAT,
        "dataset": recommender.dataset,
        "model": trained.name,
        "family": family,
        "seed": trained.seed,
        "supervision": model.settings.training.supervision,
        "settings": {
            name: section_type(name).dump_python(getattr(model.settings, name), mode="json")
            for name in SECTIONS
        },
        "sha256": {name: file_hash(folder / name) for name in (ITEMS, WEIGHTS)},
    }
    write_atomically(folder / CARD, card)
    write_atomically(folder / DESCRIPTION, json.dumps(description, indent=1) + "\n")


def check_folder(folder: str | Path) -> Path:
    """A folder that is new, empty or an exported model; raises DataError for any other place."""
    if not isinstance(folder, (str, Path)):
        raise DataError(f"folder is {folder!r:.60}; name a new folder")
    folder = Path(folder)
    for part in (folder, *folder.parents):
        if part.is_symlink() and not part.exists():
            raise DataError(f"{part} is a link that leads nowhere; remove it, or name a new folder")
        if part.exists() and not part.is_dir():
            raise DataError(f"{part} is a file; name a new folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / DESCRIPTION).is_file():
        raise DataError(f"{folder} is not empty and is no exported model; name a new folder")
    return folder


def section_type(name: str) -> TypeAdapter:
    """What reads and writes a section of the settings."""
    return TypeAdapter(Settings.__dataclass_fields__[name].type)


def features_of(model: torch.nn.Module) -> Features:
    """The features that a model reads: values and mask of all items, by modality."""
    tables = [part for part in model.modules() if isinstance(part, ItemTable)]
    return {
        name: (getattr(table, f"{name}_values"), getattr(table, f"{name}_mask"))
        for table in tables
        for name in table.maps
    }


def load_folder(folder: Path) -> Recommender:
    """What `export` wrote; ignores links and further files, such as those of the Hugging Face Hub.

    Raises DataError for another format, settings that this code does not know, and a file that is
    missing or not the one that was exported."""
    description = read_description(folder)
    settings = read_settings(description, folder / DESCRIPTION)
    for name, sha256 in description["sha256"].items():
        if not (folder / name).is_file():
            raise DataError(f"{folder / name} is missing; export or download the model again")
        if file_hash(folder / name) != sha256:
            raise DataError(describe_damage(folder / name, "its sha256 differs"))
    try:
        items = load_table(folder / ITEMS, {*ITEM_COLUMNS})
        tensors = read_tensors((folder / WEIGHTS).read_bytes())  # a map would follow the file
        features = {}
        for name in ("text", "image"):
            if f"features.{name}.values" in tensors:
                parts = (tensors.pop(f"features.{name}.{part}") for part in ("values", "mask"))
                features[name] = tuple(parts)
        model = FAMILIES[description["family"]](settings, len(items), features)
        model.load_state_dict(tensors)
        card = folder / CARD
        text = card.read_text("utf-8", errors="replace") if card.is_file() else ""
    except (SafetensorError, RuntimeError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(describe_damage(folder, type(error).__name__)) from None
    check_items(items, folder / ITEMS)
    trained = Trained(description["model"], description["seed"], model.eval())
    return Recommender(description["dataset"], trained, items, card=text)


def check_items(items: pd.DataFrame, path: Path) -> None:
    """Raises DataError unless titles and genres are text, ids and years text or integers."""
    for column in ITEM_COLUMNS:
        kinds = {*map(type, items[column].tolist())}
        if kinds != {str} and (kinds != {int} or column in ("title", "genres")):
            raise DataError(describe_damage(path, f"it has a {column} of another type"))


def describe_damage(path: Path, why: str) -> str:
    """The sentence about a damaged file or folder."""
    return f"{path} is damaged ({why}); export or download the model again"


def read_description(folder: Path) -> dict[str, Any]:
    """The description of an exported model; raises DataError unless it has this format."""
    path = folder / DESCRIPTION
    if not path.is_file():
        remedy = "give a folder that `export` wrote, or a dataset of params.yaml"
        problem = f"has no file {DESCRIPTION}" if folder.is_dir() else "does not exist"
        raise DataError(f"{folder} {problem}; {remedy}")
    try:
        description = json.loads(path.read_text("utf-8"))
        known = description["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(describe_damage(path, type(error).__name__)) from None
    if known != FORMAT:
        remedy = "install the version of bivrec that wrote it, or export the model again"
        raise DataError(f"{path} has the format {known!r}, and this code reads {FORMAT}; {remedy}")
    kinds = dict.fromkeys(("dataset", "model", "family", "supervision"), str)
    for key, kind in (kinds | {"seed": int, "settings": dict, "sha256": dict}).items():
        if not isinstance(description.get(key), kind):
            raise DataError(describe_damage(path, f"without a proper {key!r}"))
    if {*description["sha256"]} != {ITEMS, WEIGHTS} or description["family"] not in FAMILIES:
        raise DataError(describe_damage(path, "it names other files or an unknown family"))
    return description


def read_settings(description: dict[str, Any], path: Path) -> Settings:
    """Settings with what a model reads to score, and nothing else."""
    sections = {}
    for name in SECTIONS:
        saved = description["settings"].get(name)
        try:
            text = json.dumps(ADDED[name] | saved if isinstance(saved, dict) else saved)
            sections[name] = section_type(name).validate_json(text)
        except ValidationError as error:
            key = ".".join((name, *map(str, error.errors()[0]["loc"])))
            problem = "differs from the settings of this code"
            remedy = "load it with the code that exported it, or export the model again"
            raise DataError(f"{path}: {key} {problem}; {remedy}") from None
    training = make_section(Training, supervision=description["supervision"])
    return make_section(Settings, **sections, training=training, cross_view=make_section(CrossView))


def make_section(section: type, **values: Any) -> Any:
    """A section of the settings with these values alone."""
    made = object.__new__(section)
    vars(made).update(values)
    return made
