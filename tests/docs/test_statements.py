"""What the pages say in words of the committed figures."""

import io
import json
import re
import subprocess

import pandas as pd
import pytest
from ruamel.yaml import YAML

from bivrec.settings import load_settings


def committed(root, name: str) -> pd.DataFrame:
    """A table as committed; `make repro` on another processor may round it differently."""
    shown = ["git", "show", f"HEAD:{name}"]
    run = subprocess.run(shown, cwd=root, capture_output=True, text=True, check=True)
    return pd.read_csv(io.StringIO(run.stdout))


def row(root, begins: str) -> str:
    lines = (root / "docs" / "studies.md").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"| {begins}"))


def test_noise(root):
    """The row names every interval that excludes zero, in both directions."""
    claims = committed(root, "results/08_report/all/claims.csv")
    claims = claims[claims["claim"].str.startswith("6 robust")]
    assert (claims["adjusted p"].astype(float) > 0.05).all()
    text = row(root, "It is more robust to noise")
    assert "every adjusted p is above 0.05" in text

    def found(theirs: str, column: str, sign: int) -> set[tuple[str, str]]:
        some = claims[claims["theirs"].eq(theirs) & (sign * claims[column].astype(float) > 0)]
        return {(c.split()[-1].split("=")[0], d) for c, d in zip(some["claim"], some["dataset"])}

    both = {(n, f"movies-{d}") for n in ("no_text", "swap") for d in ("classic", "modern")}
    replaced = {(n, "movies-classic") for n in ("replace", "replace_and_swap")}
    classic = {(n, "movies-classic") for n in ("no_image", "blur", "insert")}
    assert found("sasrec-fused both", "low", 1) == both | classic | replaced
    deleted = {("delete", "movies-classic")}
    assert found("sasrec-fused both", "high", -1) == deleted
    assert found("sasrec-sum both", "low", 1) == set()
    assert found("sasrec-sum both", "high", -1) == deleted | replaced


def test_last_steps(root):
    runs = committed(root, "results/runs.csv")
    steps = runs[runs["model"].eq("bivrec") & runs["metric"].eq("best_step")]
    steps = steps.loc[steps["study"].eq("training"), "value"].astype(float)
    assert len(steps) == 10 and (steps == 200).mean() == 0.5 and steps.max() == 200
    text = " ".join((root / "docs" / "studies.md").read_text().split())
    assert "in half of its trainings, the last step is the best" in text


def test_interests_on_development_users(root):
    """Within the bounds, but for one view of MovieLens-1M at the lower learning rate."""
    table = pd.read_csv(root / "benchmarks" / "interests.csv").set_index(["dataset", "view"])
    films = table.index.get_level_values("dataset").str.startswith("movies-")
    table = table[table["form"].eq("K = 4, F = 2") & ~films]
    bounds = {"effective_interests": 2, "other_interests": 0.25}
    for figure, least in bounds.items():
        assert (table.loc[table["figure"].eq(figure), "low"] >= least).all()
    overlap = table[table["figure"].eq("overlap")]
    assert len(overlap) == 8 and (overlap["mean"] < 0.5).all()
    assert list(overlap.index[overlap["high"] > 0.5]) == [("ml-1m", "id")]
    text = row(root, "A user's interests differ")
    assert "at the lower one, the interval of the ID view's overlap contains the bound" in text
    random = table[table["figure"].eq("allocation randomised")]
    random = random.xs("both", level="view")
    assert len(random) == 4 and (random["low"] <= 0).all()
    cost = "the cost for both views together is within the noise"
    assert cost in row(root, "It matters which interest")


def test_controls_on_the_private_datasets(root):
    """The pages name each negligible effect whose interval excludes zero."""
    named = set()
    for dataset in ("amazon-baby", "ml-1m"):
        claims = pd.read_csv(root / "benchmarks" / dataset / "claims.csv").set_index("theirs")
        for control in ("allocation randomised", "interests merged"):
            test = claims.loc[f"bivrec, {control} both"]
            assert test["verdict"] == "negligible"
            if test["low"] * test["high"] > 0:
                named.add((dataset, control, "worse" if test["low"] > 0 else "better"))
    merged, random = ("interests merged",), ("allocation randomised", "worse")
    assert named == {("amazon-baby", *merged, "worse"), ("ml-1m", *merged, "better"),
                     ("ml-1m", *random)}  # fmt: skip
    text = row(root, "The ranking needs different")
    assert "with merged interests it is slightly worse" in text
    assert "with random allocation it is slightly worse" in row(root, "It matters which interest")


def test_transfer(root):
    """The model card links the direction in which the test fails."""
    claims = committed(root, "results/08_report/all/claims.csv")
    failed = claims[claims["verdict"].eq("fails") & claims["claim"].str.startswith("7 ")]
    folder = failed["dataset"].unique().item().replace(" to ", "-")
    card = (root / "docs" / "model_card.md").read_text()
    assert f"](../results/07_cross_dataset/{folder}/" in card


def test_sasrec_on_movielens_100k(root):
    folder = root / "benchmarks" / "ml-100k"
    table = pd.read_csv(folder / "sasrec.csv").pivot(index="seed", columns="metric", values="value")
    lines = (folder / "README.md").read_text().splitlines()
    for seed, values in table.iterrows():
        assert f"| {seed} | {values['recall@10']:.4f} | {values['ndcg@10']:.4f} |" in lines


def test_new_items(root):
    """Both views find none of the items that no training has seen; PureMM is above them."""
    claims = committed(root, "results/08_report/all/claims.csv")
    claims = claims[claims["claim"].str.startswith("6 new items")]
    assert (claims["adjusted p"].astype(float) > 0.05).all()
    claims = claims.set_index(["ours", "theirs"])

    def found(ours: str, column: str, sign: int) -> set[str]:
        some = claims.loc[[(ours, "pure-mm multimodal")]]
        return set(some.loc[sign * some[column].astype(float) > 0, "dataset"])

    films = {"movies-classic", "movies-modern"}
    assert found("bivrec both", "high", -1) == films
    assert found("bivrec multimodal", "low", 1) == found("bivrec multimodal", "high", -1) == set()
    assert found("bivrec, lent both", "low", 1) == films
    for film in films:
        means = committed(root, f"results/06_cold_start/{film}/new-items.csv")
        means = means.set_index(["model", "view"])["mean"]
        assert means["bivrec", "both"] == 0
        assert means["bivrec, lent", "both"] > means["pure-mm", "multimodal"]
    text = row(root, "It helps with short histories and new items")
    assert "**both views together find none**" in text


def test_short_histories(root):
    claims = committed(root, "results/08_report/all/claims.csv")
    claims = claims[claims["claim"].str.startswith("6 cold start")]
    assert len(claims) == 6 and set(claims["theirs"]) == {"sasrec-fused both"}
    assert (claims["adjusted p"].astype(float) > 0.05).all() and (claims["high"] > 0).all()
    above = claims[claims["low"] > 0]
    lengths = above["claim"].str.extract(r"with (\d) items")[0].astype(int).tolist()
    assert lengths == [1, 2] and set(above["dataset"]) == {"movies-classic"}


def test_interests_hardly_follow_genres(root):
    for film in ("movies-classic", "movies-modern"):
        table = committed(root, f"results/03_training/{film}/recovery.csv")
        agreement = table.loc[table["model"].eq("bivrec"), "agreement"]
        assert len(agreement) == 10 and agreement.between(0, 0.2).all()


def test_merged_interests_on_movielens_1m(root):
    claims = pd.read_csv(root / "benchmarks" / "ml-1m" / "claims.csv")
    merged = claims[claims["theirs"].eq("bivrec, interests merged both")]
    assert merged["verdict"].item() == "negligible" and merged["high"].item() < 0
    assert "with merged interests it is slightly better" in row(root, "The ranking needs different")


@pytest.mark.parametrize("dataset", ["amazon-baby", "amazon-instruments", "amazon-games"])
def test_twice_the_steps(root, dataset, monkeypatch):
    """BivRec's ID view and PureID gain, PureID more; the SASRec on fused features of Instruments
    does not."""
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    from budgets import compare

    folder = root / "benchmarks" / dataset
    table = compare(*(pd.read_csv(folder / f"{name}.csv") for name in ("tuning", "budgets")))
    for row in table.itertuples():
        assert f"| {row.model} | {row.view} | " in (folder / "README.md").read_text()
    assert (table.loc[table["model"].ne("sasrec-fused"), "change"] > 0).all()
    table = table.set_index(["model", "view"])
    assert table.loc[("pure-id", "id"), "change"] > table.loc[("bivrec", "id"), "change"]
    assert table.loc[("pure-id", "id"), "more steps"] < table.loc[("bivrec", "id"), "more steps"]
    if dataset != "amazon-games":
        fused = table.loc[("sasrec-fused", "both"), "change"]
        assert (fused > 0) == (dataset == "amazon-baby")


def test_tuning_at_both_budgets_of_baby(root, monkeypatch):
    """With more steps BivRec's gain in the ID view nearly ends; its other differences turn."""
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    from budgets import compare
    from tuned import read_chosen

    short, long = (read_chosen(name)["NDCG@20"] for name in ("amazon-baby", "amazon-baby-long"))

    def gains(ours: tuple[str, str], theirs: tuple[str, str]) -> list[float]:
        return [table[ours] - table[theirs] for table in (short, long)]

    small, large = gains(("bivrec", "id"), ("pure-id", "id"))
    assert 0 < large < small / 4
    for pair in (
        (("bivrec", "multimodal"), ("pure-mm", "multimodal")),
        (("bivrec", "both"), ("sasrec-fused", "both")),
    ):
        small, large = gains(*pair)
        assert small < 0 < large
    change = (long - short).rename("change").reset_index().set_index("model")["change"]
    assert (change.drop("sasrec-fused") > 0).all() and change["sasrec-fused"] < 0
    assert change["pure-id"] == change.max()
    folder = root / "benchmarks" / "amazon-baby-long"
    trials, curves = (pd.read_csv(folder / f"{name}.csv") for name in ("tuning", "budgets"))
    assert (curves.groupby("model")["num_steps"].max() < 3200).all()
    gain = compare(trials, curves).groupby("model")["change"].mean()
    step = curves.groupby(["model", "step"])["value"].mean().groupby("model").diff().abs()
    assert (gain < step.groupby("model").max()).all() and gain["pure-id"] < 0
    for _, trial in read_chosen("amazon-baby-long").groupby("model"):
        tried = trials.loc[trials["model"].eq(trial.index[0][0]), "training.learning_rate"]
        assert tried.min() < trial["learning rate"].iloc[0] < tried.max()


def test_amazon_instruments(root):
    claims = pd.read_csv(root / "benchmarks" / "amazon-instruments" / "claims.csv")
    verdicts = claims.set_index("theirs")["verdict"]
    assert verdicts["bivrec, interests merged both"] == "holds"
    assert verdicts["bivrec, allocation randomised both"] == "negligible"
    open_claims = claims[claims["verdict"] == "open"]
    assert len(open_claims) == 3 and (open_claims["low"] > 0).all()
    assert "**holds**: with merged" in row(root, "The ranking needs different")


def test_distinct_interests_buy_no_diversity(root):
    table = committed(root, "results/08_report/all/beyond_differences.csv")
    diverse = table[table["measure"].isin(["diversity", "genre_diversity"])]
    assert len(diverse) == 8 and not (diverse["low"] > 0).any()
    less = diverse[diverse["high"] < 0]
    assert list(zip(less["dataset"], less["theirs"])) == [("movies-classic", "plain-interests")]
    better = table[table["measure"].eq("miscalibration") & (table["high"] < 0)]
    assert list(zip(better["dataset"], better["theirs"])) == [("movies-modern", "shared-newest")]


def test_bivrec_paper_ranks_about_as_popularity(root):
    main = committed(root, "results/08_report/all/main.csv")
    main = main.set_index(["model", "view", "dataset"])
    for film in ("movies-classic", "movies-modern"):
        popularity = main.loc[("popularity", "id", film)]
        ours = main.loc[("bivrec-paper", "both", film), "ndcg@20"]
        assert popularity["low"] < ours < popularity["high"]


@pytest.mark.parametrize(
    ("name", "said", "steps"),
    [
        ("amazon-baby", "`source: plain`, `plain: {folder: amazon-baby}`, and the lines of", 400),
        ("amazon-baby-long", "`source: plain`, `plain: {folder: amazon-baby}`, and the", 1600),
        ("ml-1m", "must replace those under `settings` of the entry `ml-1m`", 800),
    ],
)
def test_the_settings_of_a_private_dataset_load_as_its_page_says(root, project, name, said, steps):
    folder, yaml = root / "benchmarks" / name, YAML(typ="safe")
    assert said in " ".join((folder / "README.md").read_text().split())
    tree = yaml.load(project.root / "params.yaml")
    entry = tree["datasets"].setdefault(name, {})
    for line in re.findall(r"`(\w+: [^`]+)`", said):
        entry |= yaml.load(line)
    entry["settings"] = yaml.load(folder / "settings.yaml")
    project.write("params.yaml", json.dumps(tree))
    assert load_settings(name).training.num_steps == steps
