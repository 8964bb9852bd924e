"""`make bench-datasets`: the published datasets at full size, generated, from files to a model.

For each: the files are written in the published format with the published counts, then read and
split, encoded (hashed words for text, published vectors for images), and BivRec is trained for 200
steps by the project's functions, each stage in a process of its own. Seconds and peak memory of
every stage go into datasets.json.

    python benchmarks/datasets.py [--scale 0.1] [NAME ...]
"""

import argparse
import gzip
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from record import HERE, last_line, processor, provenance, read_json, write_json

STEPS = 200
# users, items and interactions that the 5-core keeps; items that it drops, their interactions; tags
SIZES = {
    "ml-1m": (6_040, 3_416, 999_611, 290, 598, 0),
    "ml-25m": (162_541, 59_047, 25_000_095, 0, 0, 1_093_360),
    "baby": (19_445, 7_050, 160_792, 0, 0, 0),
    "clothing": (39_387, 23_033, 278_677, 0, 0, 0),
    "electronics": (192_403, 63_001, 1_689_188, 0, 0, 0),
}
FILMS = {  # posters are not published with the films; rows of 200 items
    "features.modality": "text",
    "training.batch_size": 16,
}
CHANGES = {
    "features.text_encoder": "hashing",
    "studies.seeds": [0],
    "studies.retrained_seeds": [0],
    "training.num_steps": STEPS,
    "training.step_factor": 1.0,
    "training.warmup_steps": 20,
    "training.evaluate_every": STEPS,
    "machine.device": "cpu",
}
REVIEW = (
    "It does what it says, and my daughter likes it; the colour is not quite that of the picture. "
)


def draw(
    size: tuple[int, ...], generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, items and times in the order of the files, by user, as many as `size` says.

    No pair occurs twice; each user and item of the core has at least five interactions.
    """
    users, items, total, rare, dropped, _ = size
    everyone, step = np.arange(users), max(1, items // 6)
    codes = np.unique(
        np.concatenate([everyone * items + (everyone + k * step) % items for k in range(5)])
    )
    while len(codes) < total:
        missing = total - len(codes)
        user = (users * generator.random(2 * missing) ** 2).astype("int64")
        item = (items * generator.random(2 * missing) ** 2).astype("int64")
        fresh = np.setdiff1d(user * items + item, codes)
        codes = np.union1d(codes, generator.permutation(fresh)[:missing])
    user, item = np.divmod(codes, items)
    few = np.arange(dropped)
    user, item = (
        np.concatenate([user, few % users]),
        np.concatenate([item, items + few % max(rare, 1)]),
    )
    order = np.argsort(user, kind="stable")
    return (
        user[order],
        item[order],
        generator.integers(1_200_000_000, 1_400_000_000, len(user)) // 86400 * 86400,
    )


def write_films(
    folder: Path, name: str, size: tuple[int, ...], generator: np.random.Generator
) -> None:
    import polars as pl

    user, item, time_ = draw(size, generator)
    ratings = pl.DataFrame(
        {
            "userId": user + 1,
            "movieId": item + 1,
            "rating": generator.integers(1, 6, len(user)),
            "timestamp": time_,
        }
    )
    films = [
        (n + 1, f"Film {n}, The ({1930 + n % 80})", "Comedy|Drama")
        for n in range(size[1] + size[3])
    ]
    if name == "ml-1m":
        whole = ratings.select(pl.format("{}::{}::{}::{}", *ratings.columns))
        whole.write_csv(folder / "ratings.dat", include_header=False, quote_style="never")
        (folder / "movies.dat").write_bytes(
            "".join(f"{n}::{title}::{kind}\n" for n, title, kind in films).encode("latin-1")
        )
        return
    ratings.with_columns(pl.col("rating").cast(pl.Float64)).write_csv(folder / "ratings.csv")
    pl.DataFrame(films, schema=["movieId", "title", "genres"], orient="row").write_csv(
        folder / "movies.csv"
    )
    some = generator.integers(len(user), size=size[5])
    words = [f"word {n}" for n in range(1000)]
    pl.DataFrame(
        {
            "userId": user[some] + 1,
            "movieId": item[some] + 1,
            "tag": [words[n % 1000] for n in some],
            "timestamp": time_[some],
        }
    ).write_csv(folder / "tags.csv")


def write_amazon(
    folder: Path, name: str, size: tuple[int, ...], generator: np.random.Generator, category: str
) -> None:
    user, item, time_ = draw(size, generator)
    asins = [f"B{n:09d}" for n in range(size[1])]
    text = (REVIEW * 6)[:500]
    with gzip.open(folder / f"reviews_{category}_5.json.gz", "wt", compresslevel=1) as file:
        for u, i, t in zip(user.tolist(), item.tolist(), time_.tolist()):
            review = {
                "reviewerID": f"A{u:013d}",
                "asin": asins[i],
                "helpful": [0, 0],
                "reviewText": text,
                "overall": 5.0,
                "unixReviewTime": t,
            }
            file.write(json.dumps(review) + "\n")
    with gzip.open(folder / f"meta_{category}.json.gz", "wt", compresslevel=1) as file:
        for n, asin in enumerate(asins):
            product = {
                "asin": asin,
                "title": f"Thing number {n}",
                "brand": f"Brand {n % 500}",
                "categories": [[category, f"Kind {n % 20}", f"Sort {n % 300}"]],
                "description": text,
            }
            file.write(repr(product) + "\n")
    record = np.dtype([("asin", "S10"), ("values", "<f4", (4096,))])
    with open(folder / f"image_features_{category}.b", "wb") as file:
        for start in range(0, len(asins), 1024):
            block = np.zeros(len(asins[start : start + 1024]), record)
            block["asin"] = [asin.encode() for asin in asins[start : start + 1024]]
            block["values"] = generator.standard_normal((len(block), 4096), dtype="float32")
            block.tofile(file)


def write_files(name: str, scale: float, films: bool, dataset) -> dict:
    from bivrec.data.readers.common import raw_folder

    folder = raw_folder(dataset.source_settings.folder)
    folder.mkdir(parents=True)
    generator = np.random.Generator(np.random.PCG64(0))
    size = tuple(round(n * scale) for n in SIZES[name])
    if films:
        write_films(folder, name, size, generator)
    else:
        write_amazon(folder, name, size, generator, dataset.source_settings.category)
    return {"bytes": sum(path.stat().st_size for path in folder.iterdir())}


def run_stage(stage: str, name: str, scale: float) -> dict:
    """One stage, in this process: seconds, peak memory and what came of it."""
    from bivrec.data.domain import Domain, encode, prepare
    from bivrec.settings import load_settings

    dataset, build = load_settings().datasets[name], Path(os.environ["BIVREC_ROOT"]) / "build"
    films = dataset.source != "amazon"
    loose = {f"datasets.{name}.expected.strict": False} if scale != 1 else {}
    features = FILMS if films else {"features.image_encoder": "published"}
    domain, started = Domain(name, CHANGES | loose | features), time.perf_counter()
    if stage == "write":
        figures = write_files(name, scale, films, dataset)
    elif stage == "prep":
        os.environ["BIVREC_BUILD"] = str(build / "01_data_prep" / name)
        sequences = prepare(domain)
        figures = {"users": sequences.num_users, "items": sequences.num_items}
        figures["interactions"] = len(sequences.items)
    elif stage == "encode":
        os.environ["BIVREC_BUILD"] = str(build / "02_feature_encoding" / name)
        figures = {modality: made[0].source for modality, made in encode(domain).items()}
    else:
        figures = train(domain)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = round(time.perf_counter() - started, 1)
    return {"seconds": seconds, "peak GiB": round(peak, 2)} | figures


def train(domain) -> dict:
    from bivrec.experiment.training import train_model

    record = train_model(domain, "bivrec", 0).record
    seconds = "seconds of the training, with one look at the validation users"
    return {
        "steps": STEPS,
        "rows a step": domain.settings.training.batch_size,
        "targets": record.num_targets,
        seconds: round(record.seconds, 1),
    }


def about_machine() -> dict:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    packages = ("torch", "numpy", "polars", "pandas", "scikit-learn")
    return provenance() | {
        "processor": processor(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))),
        "load before": round(os.getloadavg()[0], 1),
        "memory, GiB": round(memory / 2**30, 1),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in packages},
    }


def run_stages(name: str, scale: float) -> dict:
    """Every stage in turn, under a root of its own that holds the project's settings."""
    stages = {}
    with tempfile.TemporaryDirectory(dir=os.environ.get("BIVREC_SCRATCH")) as root:
        params = (HERE.parent / "params.yaml").read_text("utf-8")
        (Path(root) / "params.yaml").write_text(params, "utf-8")
        around = os.environ | {"BIVREC_ROOT": root, "PYTHONPATH": str(HERE.parent)}
        around.pop("BIVREC_DATA", None)
        for stage in ("write", "prep", "encode", "train"):
            command = [sys.executable, __file__, name, "--scale", str(scale), "--stage", stage]
            process = subprocess.run(command, env=around, capture_output=True, text=True)
            if process.returncode:
                sys.exit(f"ERROR: {name}, {stage}: {last_line(process)}")
            stages[stage] = json.loads(last_line(process))
            print(f"{name} {stage}: {stages[stage]}", flush=True)
    return stages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *SIZES], metavar="NAME")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.stage:
        print(json.dumps(run_stage(chosen.stage, chosen.names[0], chosen.scale)))
        return
    path = HERE / "datasets.json"
    for name in chosen.names or SIZES:
        stages = run_stages(name, chosen.scale)
        label = name if chosen.scale == 1 else f"{name}, scale {chosen.scale:g}"
        measured = read_json(path)
        measured[label] = {"stages": stages, "made by": about_machine()}
        write_json(path, measured)


if __name__ == "__main__":
    main()
