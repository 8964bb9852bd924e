"""Published files, fetched from a local server, and the message without one."""

import hashlib
import json
import re
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from bivrec.data.download import checksums, download, fetch
from bivrec.data.readers.common import raw_folder
from bivrec.errors import DataError, SettingsError
from bivrec.settings import Dataset, check_params, load_settings


def dataset_of(**tree) -> Dataset:
    return TypeAdapter(Dataset).validate_json(json.dumps({"settings": {}} | tree))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path != "/cut.csv":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"only this")


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "published"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture
def raw(tmp_path, monkeypatch):
    monkeypatch.setenv("BIVREC_DATA", str(tmp_path / "own"))
    return tmp_path / "own"


def films(url: str, checksum: str | None = None) -> Dataset:
    download = {"url": f"{url}/ml.zip"} | ({"checksum": checksum} if checksum else {})
    return dataset_of(
        source="movielens_dat",
        movielens_dat={"folder": "ml"},
        downloads={"ml.zip": download},
        licence="Only for tests.",
    )


def publish(folder, content="1::1::5::7\n"):
    with zipfile.ZipFile(folder / "ml.zip", "w") as file:
        for name, text in (
            ("ratings.dat", content),
            ("movies.dat", "1::A (1990)::Drama\n"),
            ("README", "terms"),
        ):
            file.writestr(f"ml/{name}", text)
    return hashlib.md5((folder / "ml.zip").read_bytes()).hexdigest()


def test_the_licence_comes_first_then_the_files_then_the_same_files_ever_after(server, raw):
    folder, url = server
    dataset = films(url, f"md5:{publish(folder)}")
    with pytest.raises(
        SettingsError,
        match="Only for tests(.|\n)*Nothing was fetched(.|\n)*make fetch DATASET=ml ACCEPT=yes",
    ):
        fetch("ml", dataset)
    assert not raw.exists()
    assert f"ml is in {raw / 'ml'}" in fetch("ml", dataset, accept=True)
    assert sorted(path.name for path in (raw / "ml").iterdir()) == [
        "README",
        "checksums.json",
        "ml.zip",
        "movies.dat",
        "ratings.dat",
    ]
    (folder / "ml.zip").unlink()
    fetch("ml", dataset)  # what is there is not fetched again, nor asked about
    (raw / "ml" / "ratings.dat").write_text("1::1::4::7\n")
    with pytest.raises(
        DataError, match=r"ratings.dat has changed: its sha256 was \w+... when first seen"
    ):
        checksums("ml", dataset)


def test_another_file_than_the_published_one_is_refused(server, raw):
    folder, url = server
    publish(folder)
    with pytest.raises(DataError, match="is not the file whose checksum params.yaml has, md5:0000"):
        fetch("ml", films(url, "md5:" + "0" * 32), accept=True)
    assert not [path for path in (raw / "ml").iterdir()]


def test_without_a_network_one_sentence_says_which_file_goes_where(raw):
    by_hand = f"put ml.zip into {raw / 'ml'} by hand (from http"
    message = f"ml.zip could not be fetched (ConnectionError); try again, or {by_hand}"
    with pytest.raises(DataError, match=re.escape(message)):
        fetch("ml", films("http://127.0.0.1:9"), accept=True)
    remedy = "`make fetch DATASET=ml` fetches it, or put it there by hand"
    message = f"{raw / 'ml' / 'ratings.dat'} is missing, which ml needs; {remedy}"
    with pytest.raises(DataError, match=re.escape(message)):
        checksums("ml", films("http://127.0.0.1:9"))


def test_a_file_that_is_not_there_or_cut_short_leaves_nothing(server, raw):
    folder, url = server
    for name, kind in (("gone.csv", "HTTPError"), ("cut.csv", "ChunkedEncodingError")):
        dataset = dataset_of(
            source="plain",
            plain={"folder": "mine"},
            downloads={name: {"url": f"{url}/{name}"}},
            licence="Mine.",
        )
        with pytest.raises(DataError, match=f"{name} could not be fetched .{kind}"):
            fetch("mine", dataset, accept=True)
        assert not [
            path for path in (raw / "mine").iterdir() if not path.name.startswith(".cut.csv.")
        ]  # from which it would go on


def test_a_download_goes_on_where_it_broke_off(server, raw, monkeypatch):
    """A server that breaks off half way through; then one whose file has become another
    meanwhile."""
    content, asked = bytes(range(256)) * 4000, []
    published = {"tag": '"first"', "content": content, "cut": True}

    def answer(self):
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        asked.append(start)
        rest = start and self.headers["If-Range"] == published["tag"]
        body = published["content"][start if rest else 0 :]
        self.send_response(206 if rest else 200)
        self.send_header("ETag", published["tag"])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if published["cut"] else body)

    monkeypatch.setattr(Quiet, "do_GET", answer)
    folder, url = server
    for tag, wanted, cuts in (('"first"', content, 2), ('"second"', content[::-1], 1)):
        name = f"{len(asked)}.csv"
        dataset = dataset_of(
            source="plain",
            plain={"folder": "mine"},
            downloads={name: {"url": f"{url}/{name}"}},
            licence="Mine.",
        )
        for _ in range(cuts):
            with pytest.raises(DataError, match=f"{name} could not be fetched"):
                fetch("mine", dataset, accept=True)
            assert not (raw / "mine" / name).exists()
        published |= {"tag": tag, "content": wanted, "cut": False}
        with pytest.raises(
            DataError, match="interactions.csv"
        ):  # the download is whole; the folder still lacks its interactions
            fetch("mine", dataset, accept=True)
        assert (raw / "mine" / name).read_bytes() == wanted
        published["cut"] = True
    assert asked[0] == 0 and 0 < asked[1] < asked[2] < len(content)
    assert not list((raw / "mine").glob(".*"))


def test_old_bytes_never_stand_under_a_new_mark(server, tmp_path, monkeypatch):
    """Killed just as it learns that the published file is another: the next download must not go on
    from the old part."""
    folder, url = server
    (folder / "a.csv").write_text("the new file")
    part = tmp_path / ".a.csv.part"
    part.write_text("the old")
    part.with_suffix(".mark").write_text('"old"')
    monkeypatch.setattr(Path, "write_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        download(f"{url}/a.csv", part)
    assert not part.exists()


def test_files_placed_by_hand_are_taken(server, raw):
    folder, url = server
    publish(folder)
    (raw / "ml").mkdir(parents=True)
    (folder / "ml.zip").rename(raw / "ml" / "ml.zip")
    assert "ratings.dat" in fetch(
        "ml", films(url)
    )  # the archive is unpacked; nothing is downloaded, no licence asked
    mine = raw / "mine"
    mine.mkdir()
    (mine / "interactions.csv").write_text("user,item,time\n1,1,1\n")
    dataset = dataset_of(source="plain", plain={"folder": "mine"})
    first = checksums("mine", dataset)
    (mine / "interactions.csv").write_text("user,item,time\n1,2,1\n")
    assert checksums("mine", dataset) != first  # one's own data may change
    (mine / "checksums.json").write_text("{")
    with pytest.raises(DataError, match="checksums.json is damaged"):
        checksums("mine", dataset)


def test_what_is_downloaded_has_a_licence_and_a_name_that_is_no_path():
    with pytest.raises(ValueError, match="needs its `licence`"):
        dataset_of(
            source="plain", plain={"folder": "mine"}, downloads={"a.csv": {"url": "http://x/a.csv"}}
        )
    for name, url in (("../a.csv", "http://x/a.csv"), ("a.csv", "file:///etc/passwd")):
        with pytest.raises(ValueError, match="without path or spaces|starts with http"):
            dataset_of(
                source="plain",
                plain={"folder": "mine"},
                downloads={name: {"url": url}},
                licence="x",
            )


def test_every_published_dataset_has_an_address_and_a_licence():
    datasets = check_params().datasets
    for name in ("ml-1m", "ml-25m", "baby", "clothing", "electronics"):
        assert (
            datasets[name].downloads
            and len(datasets[name].licence) > 80
            and datasets[name].expected.strict
        )


@pytest.mark.parametrize(
    "record",
    [
        "[]",
        '{"interactions.csv": 5}',
        '{"interactions.csv": {"sha256": null, "stamp": []}}',
        "[" * 5000,
    ],
)
def test_a_record_of_checksums_that_is_none(project, refuses, record):
    project.write("raw/mine/checksums.json", record)
    remedy = "remove it to record the files' checksums again"
    message = refuses(lambda: checksums("mine", project.dataset))
    assert message == f"{project.raw / 'checksums.json'} is damaged; {remedy}"


def test_a_published_file_in_a_folder_below_has_changed(project, refuses):
    dataset = load_settings("ml-1m").datasets["ml-1m"]
    for name in ("ratings.dat", "movies.dat", "more/about.txt"):
        project.write(f"raw/ml-1m/{name}", "1")
    checksums("ml-1m", dataset)
    project.write("raw/ml-1m/more/about.txt", "other")
    assert "about.txt has changed: its sha256 was" in refuses(lambda: checksums("ml-1m", dataset))


PAGE = b"\xef\xbb\xbf\n<!DOCTYPE html><html><title>Sign in</title></html>"


def published_file(url: str, name: str) -> Dataset:
    download = {name: {"url": f"{url}/{name}"}}
    return dataset_of(
        source="plain", plain={"folder": "mine"}, downloads=download, licence="For tests."
    )


@pytest.mark.parametrize("name", ["a.json.gz", "a.zip", "a.npy", "interactions.csv"])
def test_a_sign_in_page_is_refused_and_nothing_is_stored(server, raw, name):
    folder, url = server
    (folder / name).write_bytes(PAGE)
    sentence = f"{name} from {url}/{name} is a web page.*nothing was stored: open that address"
    with pytest.raises(DataError, match=sentence):
        fetch("mine", published_file(url, name), accept=True)
    assert not list((raw / "mine").iterdir())


@pytest.mark.parametrize(
    ("content", "wrong"),
    [(b'{"error": "log in"}', r"is no \.gz file: it begins with"), (b"", "is empty; nothing was")],
)
def test_an_answer_in_another_format_is_refused(server, raw, content, wrong):
    folder, url = server
    (folder / "a.json.gz").write_bytes(content)
    with pytest.raises(DataError, match=wrong):
        fetch("mine", published_file(url, "a.json.gz"), accept=True)
    assert not list((raw / "mine").iterdir())


def test_a_page_saved_by_hand_is_not_recorded(project, refuses):
    page = project.write("raw/mine/features.npy", PAGE)
    message = refuses(lambda: checksums("mine", project.dataset))
    assert message.startswith(f"{page} is a web page") and "remove it" in message
    assert not (project.raw / "checksums.json").exists()


def test_a_wrong_file_is_mended_by_removing_it_and_fetching_again(server, raw):
    folder, url = server
    publish(folder, "1::1::1::7\n")
    fetch("ml", films(url), accept=True)
    publish(folder, "1::1::5::7\n")
    for name in ("ml.zip", "ratings.dat"):
        (raw / "ml" / name).unlink()
    fetch("ml", films(url), accept=True)
    assert (raw / "ml" / "ratings.dat").read_text() == "1::1::5::7\n"
    (raw / "ml" / "ratings.dat").write_text("1::1::4::7\n")
    with pytest.raises(DataError, match="ratings.dat has changed.*fetch it again"):
        checksums("ml", films(url))
    (raw / "ml" / "ratings.dat").unlink()
    fetch("ml", films(url), accept=True)
    assert (raw / "ml" / "ratings.dat").read_text() == "1::1::5::7\n"


@pytest.mark.parametrize("chosen", ["own", "~/own"])
def test_bivrec_data_counts_from_the_project_and_knows_home(project, monkeypatch, chosen):
    monkeypatch.setenv("HOME", str(project.root / "home"))
    monkeypatch.setenv("BIVREC_DATA", chosen)
    own = project.root / chosen.replace("~", "home")
    (own / "mine").mkdir(parents=True)
    (project.root / "notebooks").mkdir(exist_ok=True)
    monkeypatch.chdir(project.root / "notebooks")
    assert raw_folder("mine") == own / "mine"
    assert raw_folder("none") == own / "none"


def test_a_file_in_place_of_the_folder_of_datasets_is_refused(tmp_path, monkeypatch, refuses):
    (tmp_path / "ratings.dat").touch()
    monkeypatch.setenv("BIVREC_DATA", str(tmp_path / "ratings.dat"))
    message = refuses(lambda: raw_folder("mine"))
    assert message.endswith("ratings.dat, a file; name the folder of the datasets")
