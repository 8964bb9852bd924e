"""The reader of every source that params.yaml names."""

from bivrec.data.readers.amazon import read_amazon
from bivrec.data.readers.common import raw_folder
from bivrec.data.readers.mmrec import read_mmrec
from bivrec.data.readers.movielens import read_movielens, read_movielens_dat
from bivrec.data.readers.plain import read_plain
from bivrec.data.types import Raw
from bivrec.errors import RESTORE
from bivrec.settings import Dataset, project_root

READERS = {
    "movielens": read_movielens,
    "movielens_dat": read_movielens_dat,
    "amazon": read_amazon,
    "mmrec": read_mmrec,
    "plain": read_plain,
}


def read_dataset(name: str, dataset: Dataset) -> Raw:
    """A dataset's tables from its files; raises DataError with what to do about a bad one."""
    folder = raw_folder(dataset.source_settings.folder)
    remedy = "fix the file"
    if not folder.is_dir():
        remedy = "put it there; `make data` brings the embedded datasets"
    if folder.parent == project_root() / "data":
        remedy = RESTORE
    elif dataset.downloads:
        remedy = f"fetch it again with `make fetch DATASET={name}`"
    return READERS[dataset.source](folder, dataset.source_settings, remedy)
