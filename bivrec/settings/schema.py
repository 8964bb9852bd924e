"""The sections of params.yaml as frozen dataclasses that refuse unknown, missing and mistyped
keys."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field

from bivrec.settings.datasets import Dataset
from bivrec.settings.types import (
    BelowOne,
    Choices,
    Count,
    Counts,
    DatasetName,
    Family,
    ImageEncoder,
    Levels,
    Metric,
    Modality,
    Name,
    Names,
    NoiseKind,
    OfModels,
    Once,
    PartOfOne,
    Positive,
    Protocol,
    Range,
    Section,
    Seeds,
    Stage,
    Start,
    TextEncoder,
    TransferName,
    View,
    Weight,
    Whole,
)


class Machine(Section):
    """Where trainings run; on a CPU no figure depends on it."""

    device: Literal["auto", "cpu", "cuda"]
    num_workers: Whole
    kernels: Literal["reference", "fast"]
    deterministic: bool


class Transfer(Section):
    """A pair of domains: models train on the source and rank the target's catalogue."""

    source: DatasetName
    target: DatasetName


class Studies(Section):
    """What the pipeline runs, and by which figure the validation users choose."""

    stages: Annotated[tuple[Stage, ...], Once]
    datasets: Annotated[tuple[DatasetName, ...], Once]
    transfers: dict[TransferName, Transfer]
    seeds: Seeds
    retrained_seeds: Seeds
    models: Names
    ablations: Annotated[tuple[Name, ...], Once]
    grids: Annotated[tuple[Name, ...], Once]
    protocols: Annotated[tuple[Protocol, ...], Field(min_length=1), Once]
    primary_metric: Metric

    def __post_init__(self):
        if not set(self.retrained_seeds) <= set(self.seeds):
            seeds, retrained = list(self.seeds), list(self.retrained_seeds)
            raise ValueError(f"retrained_seeds {retrained} must be among seeds {seeds}")


class Split(Section):
    """How users or histories are split into training, validation and test."""

    protocol: Protocol
    num_folds: Annotated[int, Field(ge=3)]
    history_share: Annotated[float, Field(gt=0, lt=1)]
    ties: Literal["hash", "file"]
    mask_history: bool
    min_interactions: Annotated[int, Field(ge=3)]

    def __post_init__(self):
        held_out = self.protocol in ("by_user", "by_interactions")
        if held_out and self.history_share * self.min_interactions < 1:
            raise ValueError("history_share of min_interactions is less than an item; raise one")


class Features(Section):
    """The frozen encoders, and how many components of their output are used."""

    modality: Literal["text", "image", "both", "none"]
    text_encoder: TextEncoder
    image_encoder: ImageEncoder
    image_folder: str
    num_components: Count
    shuffled: bool

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return {"both": ("text", "image"), "none": ()}.get(self.modality, (self.modality,))


class Model(Section):
    """BivRec: both views share these sizes, not their weights."""

    views: Annotated[tuple[View, ...], Field(min_length=1), Once]
    dim: Count
    max_length: Count
    scales: Annotated[tuple[Count, ...], Field(min_length=1), Once]
    num_layers: Whole
    num_heads: Count
    inner_dim: Count
    kernel: Literal["rbf", "rbf_normalised", "distance", "softmax"]
    pooling: Literal["cluster", "attention", "mean"]
    num_interests: Count
    num_nearest: Count
    similarity: Literal["cosine", "dot"]
    temperature: Positive
    final_temperature: Positive | None
    assignment: Literal["hard", "soft"]
    information_weight: Weight
    information_within: Literal["history", "scale"]
    newest: Literal["owners", "per_interest", "all", "none"]
    readout: Literal["log_sum_exp", "hard"]
    dropout: BelowOne

    def __post_init__(self):
        nearest, interests = self.num_nearest, self.num_interests
        if nearest > interests:
            problem = f"num_nearest (F) is {nearest}, more than num_interests (K), {interests}"
            raise ValueError(f"{problem}; lower F or raise K")
        if self.dim % self.num_heads:
            problem = f"dim {self.dim} is not a multiple of num_heads {self.num_heads}"
            raise ValueError(f"{problem}; change one of them")
        if self.final_temperature and self.assignment == "soft":
            problem = "final_temperature would make the recommendations of a soft assignment"
            raise ValueError(f"{problem} depend on the step; set null or assignment: hard")
        largest, length = max(self.scales), self.max_length
        for scale in self.scales:
            if math.gcd(largest, length) % scale:
                divided = f"the largest scale, {largest}, and max_length, {length}"
                raise ValueError(f"scale {scale} must divide {divided}; change one of them")


class CrossView(Section):
    """Weights and forms of the losses between the views, and which view learns from them."""

    learner: Literal["both", "id", "multimodal"]
    id_weight: Weight
    multimodal_weight: Weight
    coarse_weight: Weight
    coarse_temperature: Positive
    fine_weight: Weight
    item_weight: Weight
    item_temperature: Positive
    item_rows: Count
    mutual_weight: Weight
    mutual_rows: Count


class Baseline(Section):
    """What the neural baselines need; dim and max_length are the model's."""

    inputs: Literal["id", "multimodal", "fused"]
    block: Literal["standard", "gated", "filtered"]
    filter_share: PartOfOne
    num_frequencies: Count
    num_layers: Count
    num_heads: Count
    inner_dim: Count
    num_interests: Count
    num_experts: Count
    temperature: Positive
    alignment_weight: Weight


class ItemKNN(Section):
    """Item neighbours by cosine, of the newest items, weighted by age."""

    num_recent: Whole
    decay: PartOfOne
    num_neighbours: Whole


class Training(Section):
    """The training budget, the same for every model that is trained by gradients."""

    supervision: Literal["every_position", "one_target"]
    batch_size: Count
    num_steps: Count
    step_factor: Positive
    warmup_steps: Whole
    learning_rate: Positive
    weight_decay: Weight
    clip_norm: Positive
    average_decay: BelowOne
    precision: Literal["auto", "float32", "bfloat16"]
    num_negatives: Whole
    evaluate_every: Count
    patience: Count | None

    def __post_init__(self):
        if self.num_negatives == 1:
            raise ValueError("num_negatives is 1, which may be the target; set 0 (all) or more")


class Variant(Section):
    """A model: its family, and the settings in which it differs from params.yaml."""

    family: Family
    settings: Annotated[dict[str, Any], OfModels]


Ranges = Annotated[dict[str, Range], Field(min_length=1), OfModels]  # by the dotted setting


class Tuning(Section):
    """The search that is the same for every trained model: ranges of dotted settings, for every
    family and for one; compared on the validation users of some folds."""

    models: Annotated[tuple[Name, ...], Once]
    seeds: Seeds
    num_trials: Count
    patience: Count | None
    space: dict[Literal["every"] | Family, Ranges]

    def __post_init__(self):
        if "every" not in self.space:
            raise ValueError("space lacks `every`, the ranges of all models; add it")


class Noise(Section):
    """Levels of the noise study: shares, for `blur` standard deviations; 0 is clean. `trained`
    lists the levels at which models are also trained."""

    levels: Annotated[dict[NoiseKind, Levels], Field(min_length=1)]
    trained: dict[NoiseKind, Annotated[tuple[Positive, ...], Once]]

    def __post_init__(self):
        for noise, levels in (*self.levels.items(), *self.trained.items()):
            largest = max(levels, default=0)
            if noise != "blur" and largest > 1:
                raise ValueError(f"{noise} has the level {largest}, which is a share and at most 1")
        for noise, levels in self.levels.items():
            if levels[0] or list(levels) != sorted(set(levels)):
                problem = f"{noise} has the levels {list(levels)}"
                raise ValueError(f"{problem}; they must increase from 0, the clean level")


class ColdStart(Section):
    """Groups of the cold-start study."""

    history_lengths: Counts
    history_cuts: Counts
    item_counts: Counts
    new_items_share: PartOfOne


class TransferStudy(Section):
    """Budget and starts of the cross-dataset study."""

    shares: Annotated[tuple[PartOfOne, ...], Once]
    starts: Annotated[tuple[Start, ...], Once]
    num_steps: Count


class Settings(Section):
    """All of params.yaml, for one profile and one dataset."""

    machine: Machine
    profiles: dict[Name, dict[str, Any]]
    studies: Studies
    datasets: dict[DatasetName, Dataset]
    split: Split
    features: Features
    model: Model
    cross_view: CrossView
    baseline: Baseline
    itemknn: ItemKNN
    training: Training
    models: dict[Name, Variant]
    ensembles: dict[Name, Names]
    ablations: dict[Name, Variant]
    grids: dict[Name, Choices]
    tuning: Tuning
    noise: Noise
    cold_start: ColdStart
    transfer: TransferStudy

    def __post_init__(self):
        dim, heads = self.model.dim, self.baseline.num_heads
        if dim % heads:
            problem = f"model.dim {dim} is not a multiple of baseline.num_heads, {heads}"
            raise ValueError(f"{problem}; change one of them")
        kernels, negatives = self.machine.kernels, self.training.num_negatives
        if self.training.precision == "bfloat16" and (kernels == "reference" or negatives):
            needed = "machine.kernels: fast and training.num_negatives: 0"
            problem = f"training.precision is bfloat16, which needs {needed}"
            remedy = "change them, or set training.precision: auto"
            raise ValueError(f"{problem}, not {kernels} and {negatives}; {remedy}")
        for name, members in self.ensembles.items():
            if unknown := sorted(set(members) - set(self.models)):
                raise ValueError(
                    f"ensembles.{name}: {unknown[0]} is not among `models`; add it there"
                )
            if name in self.models:
                raise ValueError(f"ensembles.{name} is also a model; rename the ensemble")
        if both := sorted(self.ablations.keys() & self.models.keys()):
            raise ValueError(f"ablations.{both[0]} is also a model; rename the ablation")
        for name, choices in self.grids.items():
            if len(choices) > 2:
                problem = f"grids.{name} varies {len(choices)} settings"
                raise ValueError(f"{problem}, and a figure shows two; split it into two grids")
        if self.profiles.get("default") != {}:
            rule = "the file as it stands is the default"
            raise ValueError(f"profiles must hold `default: {{}}`: {rule}")
