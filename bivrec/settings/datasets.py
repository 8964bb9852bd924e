"""The entries of `datasets` in params.yaml: where data come from."""

from typing import Annotated, Any, Literal

from pydantic import Field

from bivrec.settings.types import Address, Checksum, Count, FileName, FolderName, Section, Whole


class Planted(Section):
    """Size and seed of the generated data."""

    num_kinds: Annotated[int, Field(ge=2, le=8)]
    items_per_kind: Count
    num_users: Annotated[int, Field(ge=20)]
    mean_length: Annotated[int, Field(ge=8)]
    seed: Whole
    alternating: bool = False


class MovieLens(Section):
    """A MovieLens folder of CSV files; only films of these years belong to the domain, or all
    without years."""

    folder: FolderName
    first_year: int | None = None
    last_year: int | None = None

    def __post_init__(self):
        first, last = self.first_year, self.last_year
        if first is not None and last is not None and first > last:
            problem = f"first_year {first} is after last_year {last}"
            raise ValueError(f"{problem}; lower first_year or raise last_year")


class Amazon(Section):
    """A folder of McAuley's Amazon files of 2014 or 2018, and the category in their names."""

    folder: FolderName
    category: FileName


class Folder(Section):
    """A folder whose files have fixed names."""

    folder: FolderName


class Download(Section):
    """Where a file is published, and the checksum that its publisher gives."""

    url: Address
    checksum: Checksum | None = None


class Expected(Section):
    """The known counts of a dataset: as published, or what the k-core keeps. `strict` refuses
    others, since figures of other data are not comparable; otherwise they are only reported."""

    of: Literal["published", "kept"]
    users: Count
    items: Count
    interactions: Count
    strict: bool


class Dataset(Section):
    """Where a dataset comes from, and which settings it changes."""

    source: Literal["planted", "movielens", "movielens_dat", "amazon", "mmrec", "plain"]
    settings: dict[str, Any]
    planted: Planted | None = None
    movielens: MovieLens | None = None
    movielens_dat: Folder | None = None
    amazon: Amazon | None = None
    mmrec: Folder | None = None
    plain: Folder | None = None
    downloads: dict[FileName, Download] = Field(default_factory=dict)
    licence: str = ""
    expected: Expected | None = None

    def __post_init__(self):
        if getattr(self, self.source) is None:
            problem = f"source is '{self.source}', but there is no key '{self.source}'"
            raise ValueError(f"{problem}; add it")
        if self.downloads and not self.licence:
            raise ValueError("a download needs its `licence`, which is shown first")

    @property
    def source_settings(self) -> Any:
        """The section named after the source."""
        return getattr(self, self.source)
