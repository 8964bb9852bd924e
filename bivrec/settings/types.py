"""What a setting may be: choices, numbers in a range, names."""

import re
from typing import Annotated, Any, Literal, dataclass_transform

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

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
Metric = Annotated[str, Field(pattern=r"^(ndcg|recall|hr|comirec_ndcg)@(10|20|50)$")]

Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
PartOfOne = Annotated[float, Field(gt=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Levels = Annotated[tuple[Weight, ...], Field(min_length=2)]
Seeds = Annotated[tuple[Whole, ...], Field(min_length=1)]

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Names = Annotated[tuple[Name, ...], Field(min_length=1)]


def _check_dataset_name(name: Any) -> Any:
    """DVC splits names at dots; YAML and the command line read `2018` and `true` as other types."""
    if not re.fullmatch("[a-z][a-z0-9_-]{0,63}", str(name)) or name in ("true", "false", "null"):
        rule = "starts with a lower-case letter and has only lower-case letters, digits, _ and -"
        raise ValueError(f"a dataset's name {rule} (64 at most), and is not true, false or null")
    return name


DatasetName = Annotated[str, BeforeValidator(_check_dataset_name)]
TransferName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,131}$")]  # one-to-other

FileName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$")
]  # a name inside one folder, never a path

Checksum = Annotated[str, Field(pattern=r"^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$")]

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

Values = Annotated[tuple[Any, ...], Field(min_length=1)]
Choices = Annotated[dict[str, Values], Field(min_length=1)]  # dotted settings, what each may be


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
