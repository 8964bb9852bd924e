"""Fetching: published files are downloaded once, checked, unpacked safely, and the same bytes ever after."""

import hashlib
import json
import os
import shutil
import stat
import sys
import zipfile
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from bivrec.data.readers.common import needed_files, raw_folder
from bivrec.data.sequences import RESTORE
from bivrec.errors import DataError, SettingsError
from bivrec.outputs import write_atomically
from bivrec.settings import Dataset, project_root

RECORD = "checksums.json"

MAX_UNPACKED = 16 << 30


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def missing_files(dataset: Dataset) -> list[str]:
    """The needed files that are not in the dataset's folder."""
    folder = raw_folder(dataset.own.folder)
    return [
        names
        for names in needed_files(dataset)
        if not any(any(folder.glob(name)) for name in names.split("|"))
    ]


def checksums(name: str, dataset: Dataset) -> dict[str, str]:
    """The sha256 of every file of a dataset. Of published files it is recorded beside them when they are first seen, and
    another one is refused ever after; of `plain` ones, which are their owner's to change, it is only told."""
    folder = raw_folder(dataset.own.folder)
    embedded = folder.parent == project_root() / "data"
    if missing := missing_files(dataset):
        way = (
            f"`make fetch DATASET={name}` fetches it, or place it there by hand"
            if dataset.downloads
            else f"place it there, or, if it comes with the project, {RESTORE}"
        )
        raise DataError(f"{folder / missing[0]} is missing, which {name} needs; {way}")
    try:
        known = (
            json.loads((folder / RECORD).read_text("utf-8")) if (folder / RECORD).is_file() else {}
        )
        if not all(isinstance(entry["sha256"], str) and entry["stamp"] for entry in known.values()):
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise DataError(
            f"{folder / RECORD} is damaged; remove it, and the files count as seen for the first time"
        ) from None
    found = {}
    for path in sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.name != RECORD and not path.name.startswith(".")
    ):
        file, stamp = (
            path.relative_to(folder).as_posix(),
            [path.stat().st_size, path.stat().st_mtime_ns],
        )
        seen = known.get(file, {})
        found[file] = {
            "sha256": seen["sha256"] if seen.get("stamp") == stamp else sha256(path),
            "stamp": stamp,
        }
        if seen and seen["sha256"] != found[file]["sha256"] and dataset.source != "plain":
            told = f"its sha256 was {seen['sha256'][:12]}... when first seen and is {found[file]['sha256'][:12]}..."
            raise DataError(
                f"{path} has changed: {told}; fetch it anew, or remove its entry in {RECORD} if you meant it"
            )
    if found != known and not embedded:
        try:
            write_atomically(folder / RECORD, json.dumps(found, indent=1) + "\n")
        except OSError as error:
            raise DataError(
                f"{folder / RECORD} cannot be written ({error.__class__.__name__}); make the folder writable"
            ) from None
    return {file: entry["sha256"] for file, entry in found.items()}


def unpack(archive: Path, folder: Path, limit: int = MAX_UNPACKED) -> None:
    """A zip's files into the folder, without the folder that they stand in there. Refused whole before anything is written:
    a path that leads outside, a link, more than `limit` bytes. What is there already is left as it is."""
    try:
        with zipfile.ZipFile(archive) as file:
            members = [member for member in file.infolist() if not member.is_dir()]
            for member in members:
                path = PurePosixPath(member.filename.replace("\\", "/"))
                if (
                    path.is_absolute()
                    or not path.parts
                    or ".." in path.parts
                    or ":" in path.parts[0]
                    or stat.S_ISLNK(member.external_attr >> 16)
                ):
                    raise DataError(
                        f"{archive.name} holds {member.filename[:80]!r}, which leads outside its folder; nothing was unpacked"
                    )
            if sum(member.file_size for member in members) > limit:
                raise DataError(
                    f"{archive.name} would fill more than {limit:,} bytes; nothing was unpacked"
                )
            for member in members:
                target = folder.joinpath(
                    *PurePosixPath(member.filename).parts[1:] or [member.filename]
                )
                if target.exists() or target.name == RECORD:
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with (
                    file.open(member) as source,
                    open(part := target.with_name(f".{target.name}.part"), "wb") as sink,
                ):
                    shutil.copyfileobj(source, sink, 1 << 20)
                os.replace(part, target)
    except DataError:
        raise
    except (
        Exception
    ) as error:  # what a damaged archive makes of zlib, lzma and struct has no common name
        for part in folder.rglob(".*.part"):
            part.unlink()
        raise DataError(
            f"{archive} cannot be unpacked ({' '.join(str(error).split())[:160]}); remove it and fetch it again"
        ) from None


def download(url: str, part: Path) -> None:
    """A file into `part`. What an interrupted download left there is not fetched again, if the server says that its file is
    still the same one."""
    import requests

    mark, have = part.with_suffix(".mark"), part.stat().st_size if part.is_file() else 0
    known = mark.read_text("utf-8") if have and mark.is_file() else ""
    asked = {"Accept-Encoding": "identity"} | (
        {"Range": f"bytes={have}-", "If-Range": known} if known else {}
    )
    with requests.get(url, headers=asked, stream=True, timeout=60) as answer:
        if answer.status_code == 416:  # there was nothing left to send, or the file is another
            part.unlink()
            return download(url, part)
        answer.raise_for_status()
        rest = answer.status_code == 206
        if not rest:  # before the new mark is written: old bytes never stand under it
            part.unlink(missing_ok=True)
        mark.write_text(
            answer.headers.get("ETag", answer.headers.get("Last-Modified", "")), "utf-8"
        )
        size = int(answer.headers.get("Content-Length", 0)) or None
        told = {
            "unit": "B",
            "unit_scale": True,
            "disable": not sys.stderr.isatty(),
            "initial": have * rest,
            "total": size and size + have * rest,
        }
        with (
            open(part, "ab" if rest else "wb") as sink,
            tqdm(desc=part.name.strip("."), **told) as bar,
        ):
            for block in answer.iter_content(1 << 18):
                bar.update(sink.write(block))
    mark.unlink()


def fetch(name: str, dataset: Dataset, accept: bool = False) -> str:
    """Downloads what of a dataset is not there yet, after its licence was accepted; what was placed by hand is left as it is."""
    import pooch
    import requests

    if dataset.source == "planted":
        return f"{name} is generated; there is nothing to fetch"
    folder = raw_folder(dataset.own.folder)
    archives = [file for file in dataset.downloads if file.endswith(".zip")]
    wanted = [
        file
        for file in dataset.downloads
        if not (folder / file).is_file() and (file not in archives or missing_files(dataset))
    ]
    if wanted and not accept:
        told = f"{name} comes under this licence: {dataset.licence}\nFrom: " + ", ".join(
            dataset.downloads[file].url for file in wanted
        )
        raise SettingsError(
            f"{told}\nNothing was fetched. If you accept it: make fetch DATASET={name} ACCEPT=yes"
        )
    for file in wanted:
        source, temporary = dataset.downloads[file], folder / f".{file}.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not temporary.is_file() or temporary.with_suffix(".mark").is_file():
                download(source.url, temporary)
            if source.checksum and not pooch.hashes.hash_matches(temporary, source.checksum):
                temporary.unlink()
                raise ValueError
        except (requests.RequestException, OSError) as error:
            by_hand = f"put {', '.join(wanted[wanted.index(file) :])} into {folder} by hand (from {source.url})"
            raise DataError(
                f"{file} could not be fetched ({error.__class__.__name__}); try again, or {by_hand}"
            ) from None
        except ValueError:
            raise DataError(
                f"{file} from {source.url} is not the file whose checksum params.yaml has, {source.checksum}; try again later"
            ) from None
        os.replace(temporary, folder / file)
    for file in archives:
        if missing_files(dataset) and (folder / file).is_file():
            unpack(folder / file, folder)
    return f"{name} is in {folder}: " + ", ".join(
        f"{file} {told[:12]}" for file, told in checksums(name, dataset).items()
    )
