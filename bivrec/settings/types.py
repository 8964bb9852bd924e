"""What a setting may be: choices, numbers in a range, names."""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, dataclass_transform

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from bivrec.errors import SettingsError


def _matches(pattern: str, rule: str) -> AfterValidator:
    """Refuses text that differs from the pattern, in the words of the rule."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(rule)
        return text

    return AfterValidator(check)


def _each_once(values: tuple) -> tuple:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"it names {value} twice; remove one")
    return values


Once = AfterValidator(_each_once)  # a list that names nothing twice

View = Literal["id", "multimodal"]
Modality = Literal["text", "image"]
Stage = Literal[
    "03_training", "04_ablations", "05_noise", "06_cold_start", "07_cross_dataset", "10_protocols"
]
Protocol = Literal["by_user", "leave_one_out", "by_time", "by_interactions"]
NoiseKind = Literal[
    "replace", "insert", "delete", "shuffle", "blur", "swap", "no_text", "no_image",
    "replace_and_swap",
]  # fmt: skip
Start = Literal[
    "bivrec of source",
    "bivrec of source, tokens fixed",
    "pure-mm of source",
    "from scratch",
    "bivrec of source, with ID view",
    "from scratch, with ID view",
]  # of bivrec/studies/transfer.py
Metric = Annotated[
    str,
    _matches(
        "(ndcg|recall|hr|comirec_ndcg)@(10|20|50)",
        "a metric is ndcg, recall, hr or comirec_ndcg at 10, 20 or 50, such as ndcg@20",
    ),
]

Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
PartOfOne = Annotated[float, Field(gt=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Levels = Annotated[tuple[Weight, ...], Field(min_length=2)]
Seeds = Annotated[tuple[Whole, ...], Field(min_length=1), Once]

NAME_RULE = "starts with a lower-case letter or digit and has only these and ., _ and -"
Name = Annotated[
    str, _matches("[a-z0-9][a-z0-9._-]{0,63}", f"a name {NAME_RULE} (64 characters at most)")
]
Names = Annotated[tuple[Name, ...], Field(min_length=1), Once]


def _check_dataset_name(name: Any) -> Any:
    """DVC splits names at dots; YAML and the command line read `2018` and `true` as other types."""
    if not re.fullmatch("[a-z][a-z0-9_-]{0,63}", str(name)) or name in ("true", "false", "null"):
        rule = "starts with a lower-case letter and has only lower-case letters, digits, _ and -"
        raise ValueError(f"a dataset's name {rule} (64 at most), and is not true, false or null")
    return name


DatasetName = Annotated[str, BeforeValidator(_check_dataset_name)]
TransferName = Annotated[  # one-to-other
    str, _matches("[a-z0-9][a-z0-9._-]{0,131}", f"a name {NAME_RULE} (132 characters at most)")
]

FILE_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*"  # inside one folder, never a path
FileName = Annotated[
    str,
    _matches(
        FILE_NAME,
        "name it without path or spaces; it starts with a letter or digit (A to Z, 0 to 9) "
        "and has only these and ., _ and -",
    ),
]
FolderName = Annotated[
    str, _matches(FILE_NAME, "name a folder of raw/ without path or spaces, such as mine")
]

Address = Annotated[
    str, _matches(r"https?://\S+", "an address starts with http:// or https:// and has no spaces")
]
Checksum = Annotated[
    str,
    _matches(
        "md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}",
        "write md5: and 32 digits, or sha256: and 64 digits, each 0 to 9 or a to f",
    ),
]

FOLDER_OF_ENCODER = "or sentence-transformers:<folder>"
TextEncoder = Annotated[
    str,
    _matches(
        "minilm|hashing|published|sentence-transformers:.+",
        f"a text encoder is minilm, hashing, published, {FOLDER_OF_ENCODER}",
    ),
]
ImageEncoder = Annotated[
    str,
    _matches(
        "efficientnet-lite0|pixels|published|sentence-transformers:.+",
        f"an image encoder is efficientnet-lite0, pixels, published, {FOLDER_OF_ENCODER}",
    ),
]

FAMILIES = (
    "bivrec", "sasrec", "sasrec-sum", "gru4rec", "comirec-sa", "fdsa", "nova", "dif-sr", "mmmlp",
    "mmsrec", "unisrec", "tedrec", "popularity", "itemknn",
)  # fmt: skip


def _check_family(family: str) -> str:
    """A family of the package, or a class of one's own in a file of own/."""
    if family not in FAMILIES and not re.fullmatch(r"own/\w+\.py:\w+", family, re.ASCII):
        own = "own/<file>.py:<Class> for a model of your own (docs/own_model.md)"
        raise ValueError(f"a family is one of {', '.join(FAMILIES)}, or {own}")
    return family


Family = Annotated[str, AfterValidator(_check_family)]


SHARED_WITH_BIVREC = ("model.dim", "model.max_length", "model.dropout")

TRANSFORMER = ("block", "filter_share", "num_frequencies", "num_layers", "num_heads", "inner_dim")
READ_OF_BASELINE = {  # the keys of the section `baseline` that each family reads
    "sasrec": ("inputs", *TRANSFORMER),
    "sasrec-sum": TRANSFORMER,
    "gru4rec": ("inputs", "num_layers", "inner_dim"),
    "comirec-sa": ("inputs", "num_interests"),
    "fdsa": TRANSFORMER,
    "nova": ("num_layers", "num_heads", "inner_dim"),
    "dif-sr": ("num_layers", "num_heads", "inner_dim"),
    "mmmlp": ("num_layers", "inner_dim"),
    "mmsrec": (*TRANSFORMER, "temperature", "alignment_weight"),
    "unisrec": ("inputs", *TRANSFORMER, "num_experts", "temperature"),
    "tedrec": (*TRANSFORMER, "num_experts", "temperature"),
}


def reads(family: str, key: str) -> bool:
    """Whether a training of the family reads the dotted key; a model of one's own may read any."""
    section, _, name = key.partition(".")
    if family not in FAMILIES:
        return True
    if family in ("popularity", "itemknn"):
        return section == family
    if family == "bivrec":
        return section not in ("itemknn", "baseline")
    if section == "baseline":
        return name in READ_OF_BASELINE[family]
    return section not in ("itemknn", "cross_view", "model") or key in SHARED_WITH_BIVREC


def check_reads(family: str, changes: Iterable[str], where: str) -> None:
    """Raises SettingsError for a dotted key that the family does not read, which would change
    nothing."""
    for key in changes:
        if not reads(family, key):
            problem = f"a model of the family {family} does not read {key}"
            raise SettingsError(f"params.yaml: {where}: {problem}; remove it")


KEYS_OF_MODELS = (  # the keys of the sections below that a training reads
    "features.modality", "features.shuffled", "machine.device", "machine.kernels",
    "machine.deterministic", "studies.primary_metric",
)  # fmt: skip
SECTIONS_OF_DATASETS = (
    "machine", "studies", "datasets", "split", "features", "tuning", "noise", "cold_start",
    "transfer",
)  # fmt: skip


def _of_models(changes: dict[str, Any]) -> dict[str, Any]:
    """Refuses a dotted key that no training reads, so that a model's own value changes nothing."""
    for key in changes:
        section, dot, _ = key.partition(".")
        if dot and section in SECTIONS_OF_DATASETS and key not in KEYS_OF_MODELS:
            raise ValueError(f"{key} belongs to the dataset; set it in datasets.<name>.settings")
    return changes


OfModels = AfterValidator(_of_models)  # dotted settings that a training reads

Values = Annotated[tuple[Any, ...], Field(min_length=1), Once]
Choices = Annotated[dict[str, Values], Field(min_length=1), OfModels]  # what each setting may be


def _rising(counts: tuple[int, ...]) -> tuple[int, ...]:
    if list(counts) != sorted(set(counts)):
        raise ValueError("the numbers must increase")
    return counts


Counts = Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(_rising)]


@dataclass_transform(frozen_default=True)
class Section:
    """A section of params.yaml: subclasses become frozen dataclasses that refuse unknown and
    mistyped keys."""

    def __init_subclass__(cls):
        dataclass(cls, frozen=True, config=ConfigDict(extra="forbid", strict=True))


class Range(Section):
    """From where to where a search draws a number, evenly or evenly in its logarithm."""

    low: Weight
    high: Positive
    log: bool = False

    def __post_init__(self):
        if self.low >= self.high or (self.log and not self.low):
            least = "above 0 and " * self.log
            raise ValueError(f"low is {self.low}, high {self.high}; low must be {least}below high")
