"""A reader for every source that params.yaml names."""

from bivrec.data.readers.amazon import read_amazon
from bivrec.data.readers.common import raw_folder
from bivrec.data.readers.mmrec import read_mmrec
from bivrec.data.readers.movielens import read_movielens, read_movielens_dat
from bivrec.data.readers.plain import read_plain
from bivrec.data.sequences import RESTORE
from bivrec.data.types import Raw
from bivrec.settings import Dataset, project_root

READERS = {
    "movielens": read_movielens,
    "movielens_dat": read_movielens_dat,
    "amazon": read_amazon,
    "mmrec": read_mmrec,
    "plain": read_plain,
}


def read_dataset(name: str, dataset: Dataset) -> Raw:
    """A dataset's tables from its files."""
    folder = raw_folder(dataset.own.folder)
    mend = (
        RESTORE
        if folder.parent == project_root() / "data"
        else f"fetch it again with `make fetch DATASET={name}`"
        if dataset.downloads
        else "mend the file"
    )
    return READERS[dataset.source](folder, dataset.own, mend)
