"""The reader of every source that params.yaml names."""

from bivrec.data.download import found_instead, missing_files
from bivrec.data.readers.amazon import read_amazon
from bivrec.data.readers.common import raw_folder, short_path
from bivrec.data.readers.mmrec import read_mmrec
from bivrec.data.readers.movielens import read_movielens, read_movielens_dat
from bivrec.data.readers.plain import read_plain
from bivrec.data.types import Raw
from bivrec.errors import RESTORE, DataError
from bivrec.settings import Dataset, project_root

READERS = {
    "movielens": read_movielens,
    "movielens_dat": read_movielens_dat,
    "amazon": read_amazon,
    "mmrec": read_mmrec,
    "plain": read_plain,
}


def read_dataset(name: str, dataset: Dataset) -> Raw:
    """A dataset's tables from its files; raises DataError with what to do about a missing or a bad
    one."""
    folder = raw_folder(dataset.source_settings.folder)
    absent, remedy = "put it there", "fix the file"
    if not folder.is_dir():
        absent = "put it there; `make data` brings the embedded datasets"
    if folder.parent == project_root() / "data":
        absent = remedy = RESTORE
    elif dataset.downloads:
        absent = f"`make fetch DATASET={name}` fetches it, or put it there by hand"
        remedy = f"fetch it again with `make fetch DATASET={name}`"
    for names in missing_files(dataset)[:1]:
        file = short_path(folder / names.replace("|", " or "))
        raise DataError(f"{file} is missing; {absent}{found_instead(dataset, names)}")
    return READERS[dataset.source](folder, dataset.source_settings, remedy)
