"""What the pages say in words of the committed figures."""

import io
import subprocess

import pandas as pd


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
    classic = {(n, "movies-classic") for n in ("no_image", "blur", "insert")}
    assert found("sasrec-fused both", "low", 1) == both | classic
    assert found("sasrec-fused both", "high", -1) == {("delete", "movies-classic")}
    assert found("sasrec-sum both", "low", 1) == set()
    replaced = {(n, "movies-classic") for n in ("replace", "replace_and_swap")}
    assert found("sasrec-sum both", "high", -1) == replaced


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
    assert "at the lower one the overlap in the ID view is below one half only on average" in text


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
