"""Published files: downloaded once, checked, unpacked safely, and never changed afterwards."""

import difflib
import hashlib
import json
import os
import shutil
import stat
import sys
import zipfile
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from bivrec.data.readers.common import needed_files, raw_folder
from bivrec.errors import RESTORE, DataError, SettingsError
from bivrec.outputs import write_atomically
from bivrec.settings import Dataset, Download, project_root

RECORD = "checksums.json"

# How the files of each format begin; no data file begins as a web page does.
BEGINNINGS = {
    ".gz": b"\x1f\x8b",
    ".zip": b"PK",
    ".npy": b"\x93NUMPY",
    ".parquet": b"PAR1",
    ".b": b"",
    ".csv": b"",
    ".dat": b"",
    ".inter": b"",
}

MAX_UNPACKED = 16 << 30  # bytes


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """A file's hash as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def wrong_content(path: Path, name: str) -> str:
    """What a file is instead of what its name says: a web page, as a server sends it with status
    200 to whoever is not signed in, or another format. Empty if it is right, or nobody knows."""
    suffix = Path(name).suffix.lower()
    if suffix not in BEGINNINGS:
        return ""
    with open(path, "rb") as file:
        head = file.read(1024)
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page, perhaps one to sign in, and not the file"
    if not head and BEGINNINGS[suffix]:
        return "empty"
    right = head.startswith(BEGINNINGS[suffix])
    return "" if right else f"no {suffix} file: it begins with {head[:12]!r}"


def missing_files(dataset: Dataset) -> list[str]:
    """The needed files that are not in the dataset's folder."""
    present = _file_names(raw_folder(dataset.source_settings.folder))
    return [names for names in needed_files(dataset) if not _matching(present, names)]


def _file_names(folder: Path) -> list[str]:
    """What the folder holds, but for hidden files, such as macOS's `._name`."""
    return sorted(path.name for path in folder.glob("*") if not path.name.startswith("."))


def _matching(present: list[str], names: str) -> list[str]:
    """The files that one of `a|b`, names or patterns, matches."""
    return [file for file in present for name in names.split("|") if fnmatchcase(file, name)]


def found_instead(dataset: Dataset, missing: str) -> str:
    """The end of a sentence about a missing file: those of the folder with nearly its name."""
    folder, near = raw_folder(dataset.source_settings.folder), []
    for file in _file_names(folder):
        if any(_matching([file], names) for names in needed_files(dataset)):
            continue
        for name in (name.lower().strip("*") for name in missing.split("|")):
            similar = difflib.SequenceMatcher(None, file.lower(), name).ratio() > 0.7
            if (similar or name in file.lower()) and file not in near:
                near.append(file)
    return f"; the folder has {', '.join(near[:3])}" if near else ""


def checksums(name: str, dataset: Dataset) -> dict[str, str]:
    """The sha256 of each file of a dataset, recorded beside the files when they are first seen.

    Raises DataError if a needed file is missing, or a published file has changed since; files of
    the plain form may change.
    """
    folder = raw_folder(dataset.source_settings.folder)
    if missing := missing_files(dataset):
        remedy = f"put it there, or, if it comes with the project, {RESTORE}"
        if dataset.downloads:
            remedy = f"`make fetch DATASET={name}` fetches it, or put it there by hand"
        file = folder / missing[0].replace("|", " or ")
        instead = found_instead(dataset, missing[0])
        raise DataError(f"{file} is missing, which {name} needs; {remedy}{instead}")
    recorded, current = _read_record(folder / RECORD), {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name == RECORD or path.name.startswith("."):
            continue
        file = path.relative_to(folder).as_posix()
        seen, stamp = recorded.get(file, {}), [path.stat().st_size, path.stat().st_mtime_ns]
        if not seen and (wrong := wrong_content(path, file)):
            raise DataError(f"{path} is {wrong}; remove it, and fetch it again or put it there")
        sha256 = seen["sha256"] if seen.get("stamp") == stamp else file_hash(path)
        current[file] = {"sha256": sha256, "stamp": stamp}
        if seen and seen["sha256"] != sha256 and dataset.source != "plain":
            was = f"its sha256 was {seen['sha256'][:12]}... when first seen and is {sha256[:12]}..."
            remedy = f"fetch it again or, if the change is intended, remove its entry in {RECORD}"
            raise DataError(f"{path} has changed: {was}; {remedy}")
    if current != recorded and folder.parent != project_root() / "data":
        _write_record(folder / RECORD, current)
    return {file: entry["sha256"] for file, entry in current.items()}


def _write_record(path: Path, record: dict[str, dict[str, Any]]) -> None:
    try:
        write_atomically(path, json.dumps(record, indent=1) + "\n")
    except OSError as error:
        problem = f"cannot be written ({type(error).__name__})"
        raise DataError(f"{path} {problem}; make the folder writable") from None


def _forget_missing(folder: Path) -> None:
    """Removes from the record the files that are gone: what is fetched instead is new."""
    record = _read_record(folder / RECORD)
    present = {file: entry for file, entry in record.items() if (folder / file).is_file()}
    if present != record:
        _write_record(folder / RECORD, present)


def _read_record(path: Path) -> dict[str, dict[str, Any]]:
    """The sha256 and the size and time of each file when it was last seen."""
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text("utf-8"))
        if all(isinstance(entry["sha256"], str) and entry["stamp"] for entry in record.values()):
            return record
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise DataError(f"{path} is damaged; remove it to record the files' checksums again")


def unpack(archive: Path, folder: Path, limit: int = MAX_UNPACKED) -> None:
    """Unpacks a zip into the folder, without its top folder; existing files stay as they are.

    Raises DataError before anything is written if a path leads outside, a member is a link, or the
    files exceed `limit` bytes.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = [member for member in file.infolist() if not member.is_dir()]
            for member in members:
                if _leads_outside(member):
                    problem = f"holds {member.filename[:80]!r}, which leads outside its folder"
                    raise DataError(f"{archive.name} {problem}; nothing was unpacked")
            if sum(member.file_size for member in members) > limit:
                problem = f"would fill more than {limit:,} bytes"
                raise DataError(f"{archive.name} {problem}; nothing was unpacked")
            for member in members:
                _unpack_member(file, member, folder)
    except DataError:
        raise
    except (
        Exception
    ) as error:  # zlib, lzma and struct have errors of their own for damaged archives
        for part in folder.rglob(".*.part"):
            part.unlink()
        problem = f"cannot be unpacked ({' '.join(str(error).split())[:160]})"
        raise DataError(f"{archive} {problem}; remove it and fetch it again") from None


def _leads_outside(member: zipfile.ZipInfo) -> bool:
    """Whether a member is a link, or its path could leave the folder."""
    path = PurePosixPath(member.filename.replace("\\", "/"))
    inside = path.parts and not path.is_absolute() and ".." not in path.parts
    return not inside or ":" in path.parts[0] or stat.S_ISLNK(member.external_attr >> 16)


def _unpack_member(file: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    target = folder.joinpath(*PurePosixPath(member.filename).parts[1:] or [member.filename])
    if target.exists() or target.name == RECORD:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with file.open(member) as source, open(part, "wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
    os.replace(part, target)


def download(url: str, part: Path) -> None:
    """Downloads a file into `part`. An interrupted download continues if the server confirms, by
    the ETag or date noted in `.mark`, that its file is still the same."""
    import requests

    mark, size = part.with_suffix(".mark"), part.stat().st_size if part.is_file() else 0
    known = mark.read_text("utf-8") if size and mark.is_file() else ""
    headers = {"Accept-Encoding": "identity"}
    if known:
        headers |= {"Range": f"bytes={size}-", "If-Range": known}
    with requests.get(url, headers=headers, stream=True, timeout=60) as answer:
        if answer.status_code == 416:  # nothing is left to send, or the file is another
            part.unlink()
            return download(url, part)
        answer.raise_for_status()
        continues = answer.status_code == 206
        if not continues:  # before the new mark is written: old bytes never stand beside it
            part.unlink(missing_ok=True)
            size = 0
        version = answer.headers.get("ETag", answer.headers.get("Last-Modified", ""))
        mark.write_text(version, "utf-8")
        rest = int(answer.headers.get("Content-Length", 0))
        options = {"initial": size, "total": size + rest if rest else None}
        options |= {"unit": "B", "unit_scale": True, "disable": not sys.stderr.isatty()}
        with (
            open(part, "ab" if continues else "wb") as sink,
            tqdm(desc=part.name.strip("."), **options) as bar,
        ):
            for block in answer.iter_content(1 << 18):
                bar.update(sink.write(block))
    mark.unlink()


def fetch(name: str, dataset: Dataset, accept: bool = False) -> str:
    """Downloads the missing files of a dataset once its licence is accepted; files put there by
    hand stay as they are. Returns where the dataset is, and the start of each file's sha256.

    Raises SettingsError with the licence if it is not accepted, DataError if a download fails.
    """
    if dataset.source == "planted":
        return f"{name} is generated; there is nothing to fetch"
    folder = raw_folder(dataset.source_settings.folder)
    archives = [file for file in dataset.downloads if file.endswith(".zip")]
    wanted = [
        file
        for file in dataset.downloads
        if not (folder / file).is_file() and (file not in archives or missing_files(dataset))
    ]
    if wanted and not accept:
        urls = ", ".join(dataset.downloads[file].url for file in wanted)
        terms = f"{name} comes under this licence: {dataset.licence}\nFrom: {urls}"
        command = f"make fetch DATASET={name} ACCEPT=yes"
        raise SettingsError(f"{terms}\nNothing was fetched. If you accept it: {command}")
    if wanted or missing_files(dataset):
        _forget_missing(folder)
    for index, file in enumerate(wanted):
        _fetch_file(dataset.downloads[file], folder, wanted[index:])
    for file in archives:
        if missing_files(dataset) and (folder / file).is_file():
            unpack(folder / file, folder)
    files = checksums(name, dataset).items()
    return f"{name} is in {folder}: " + ", ".join(f"{file} {sha256[:12]}" for file, sha256 in files)


def _fetch_file(source: Download, folder: Path, remaining: list[str]) -> None:
    """Downloads the first of the remaining files and checks it."""
    import requests

    file = remaining[0]
    part = folder / f".{file}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not part.is_file() or part.with_suffix(".mark").is_file():
            download(source.url, part)
    except (requests.RequestException, OSError, ValueError) as error:
        by_hand = f"put {', '.join(remaining)} into {folder} by hand (from {source.url})"
        problem = f"could not be fetched ({type(error).__name__})"
        raise DataError(f"{file} {problem}; try again, or {by_hand}") from None
    if wrong := wrong_content(part, file):
        part.unlink()
        by_hand = f"open that address in a browser and put the file into {folder} by hand"
        raise DataError(f"{file} from {source.url} is {wrong}; nothing was stored: {by_hand}")
    algorithm, _, expected = (source.checksum or "").partition(":")
    if expected and file_hash(part, algorithm) != expected:
        part.unlink()
        problem = f"is not the file whose checksum params.yaml has, {source.checksum}"
        raise DataError(f"{file} from {source.url} {problem}; try again later")
    os.replace(part, folder / file)
