"""The report's tables, and the pages that show them."""

import shutil

import pandas as pd
import pytest

from bivrec.errors import SettingsError
from bivrec.experiment.runs import combined_views
from bivrec.studies.report import (
    PAGES,
    best_models_table,
    beyond_table,
    claims_table,
    cost_table,
    side_by_side_table,
    structure_table,
    summarise,
    to_markdown,
    write_pages,
)

MARKS = ("main", "claims", "interests", "beyond")


CLAIMS = pd.DataFrame(
    [
        ("0 it learns", "confirmatory", 0.01, "holds"),
        ("9 the interests matter", "confirmatory", 0.9, "open"),
        ("6 robust", "exploratory", 0.02, "fails"),
        ("7 carried over", "exploratory", 0.8, "negligible"),
    ],
    columns=["claim", "family", "adjusted p", "verdict"],
).assign(dataset="a", ours="x id", theirs="y id", mean=0.1, low=0.05, high=0.15, detectable=0.04)
CLAIMS["metric"] = "ndcg@20"


def main_of(*rows: tuple) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["dataset", "model", "view", "ndcg@20"])
    return table.assign(low=0.1, high=0.9)


def test_models_stand_side_by_side():
    main = main_of(("a", "bivrec", "id", 0.25), ("b", "bivrec", "id", 0.5))
    assert side_by_side_table(main).to_numpy().tolist() == [
        ["bivrec", "id", "0.250 (0.100 to 0.900)", "0.500 (0.100 to 0.900)"]
    ]


def test_a_mean_without_an_interval_stands_alone():
    main = main_of(("a", "bivrec", "id", 0.25)).assign(low=float("nan"), high=float("nan"))
    assert side_by_side_table(main)["a"].tolist() == ["0.250"]


def test_the_best_models_have_one_row_each_and_no_view_is_chosen_on_test_users():
    main = main_of(
        *(("a", "bivrec", view, value) for view, value in (("id", 0.4), ("both", 0.3))),
        *(("b", "bivrec", view, value) for view, value in (("id", 0.4), ("both", 0.3))),
        *((dataset, "sasrec", "id", 0.5) for dataset in "ab"),
        *((dataset, "fdsa", "both", 0.2) for dataset in "ab"),
    )
    best = best_models_table(main, num_models=2)
    assert list(zip(best["model"], best["view"])) == [("sasrec", "id"), ("bivrec", "both")]


def test_a_model_stands_by_its_combined_or_only_view():
    main = main_of(*(("a", *pair, 0.1) for pair in (("x", "id"), ("x", "both"), ("y", "id"))))
    shown = combined_views(main)
    assert list(zip(shown["model"], shown["view"])) == [("x", "both"), ("y", "id")]


def test_the_summary_holds_models_as_trained():
    rows = [
        ("training", "", "test", 0, 0.2),
        ("training", "", "test", 1, 0.4),
        ("training", "", "validation", 0, 0.9),
        ("training", "interests merged", "test", 0, 0.0),
        ("noise", "", "test", 0, 0.0),
    ]
    runs = pd.DataFrame(rows, columns=["study", "condition", "split", "seed", "value"])
    runs = runs.assign(dataset="a", model="bivrec", view="id", metric="ndcg@20")
    expected = {"mean": 0.3, "spread over seeds": 0.1}
    assert summarise(runs) == {"a": {"bivrec": {"id": {"ndcg@20": expected}}}}


def test_structure_stands_by_dataset_and_view():
    rows = [
        ("bivrec", "id", "overlap", 0.45, 0.4, 0.5, "holds", "a"),
        ("bivrec", "id", "cosine", 0.7, 0.6, 0.8, None, "a"),
        ("pure-id", "id", "overlap", 0.9, 0.8, 1.0, "fails", "a"),
    ]
    columns = "model view measure mean low high verdict dataset".split()
    table = structure_table(pd.DataFrame(rows, columns=columns))
    expected = {"dataset": "a", "view": "id", "overlap": "0.45 (0.40 to 0.50) holds"}
    assert table.to_dict("records") == [expected | {"cosine": "0.70 (0.60 to 0.80)"}]


def test_claims_stand_by_family_and_undecided_exploratory_tests_are_counted(project):
    write_pages()
    text = (project / "docs/studies.md").read_text().split("<!-- claims -->")[1]
    confirmatory, exploratory = text.split("<!-- /claims -->")[0].split("Exploratory: ")
    head = "| ours | theirs | effect on NDCG@20 | detectable | adjusted p | verdict |"
    row = "| {} | a | x id | y id | +0.100 (+0.050 to +0.150) | 0.040 | {} | {} |"
    assert head in confirmatory and row.format("0 it learns", "0.010", "holds") in confirmatory
    assert row.format("9 the interests matter", "0.900", "open") in confirmatory
    assert exploratory.startswith("1 of 2 tests (the others: 1 negligible and 0 open).")
    assert row.format("6 robust", "0.020", "fails") in exploratory and "7 car" not in exploratory


def test_a_report_may_decide_no_test():
    assert len(claims_table(CLAIMS[:0])) == 0


def test_differences_beyond_accuracy_stand_side_by_side():
    rows = [("d", "diversity", 0.01), ("d", "coverage", -0.02)]
    table = pd.DataFrame(rows, columns=["dataset", "measure", "mean"])
    table = table.assign(theirs="shared-newest", low=[0.001, float("nan")], high=0.02)
    found = beyond_table(table)
    assert list(found) == ["dataset", "theirs", "diversity", "coverage"]
    assert found.iloc[0, 2:].tolist() == ["+0.0100 (+0.0010 to +0.0200)", "-0.0200"]


def test_costs_stand_dataset_by_dataset():
    keys = {"split": "train", "study": "training", "metric": "flops_per_step", "value": 1.0}
    pairs = [(dataset, model) for model in ("bivrec", "sasrec") for dataset in ("b", "a")]
    runs = pd.DataFrame(pairs, columns=["dataset", "model"]).assign(**keys)
    ranks = runs[["dataset", "model"]].assign(view="id", user=0, num_targets=1, item=0, rank=1)
    found = cost_table(runs, ranks, "ndcg@20")
    order = [("a", "bivrec"), ("a", "sasrec"), ("b", "bivrec"), ("b", "sasrec")]
    assert list(zip(found["dataset"], found["model"])) == order


def test_markdown():
    table = pd.DataFrame({"model": ["a"], "p": [0.25], "users": [3]})
    assert to_markdown(table) == "| model | p | users |\n| --- | --- | --- |\n| a | 0.250 | 3 |"


@pytest.fixture
def project(root, tmp_path, monkeypatch):
    """A folder with the results of the repository, four claims, and pages that hold nothing but
    marks."""
    shutil.copytree(root / "results/08_report", tmp_path / "results/08_report")
    CLAIMS.to_csv(tmp_path / "results/08_report/all/claims.csv", index=False)
    for path in (root / "results/03_training").glob("*/structure.csv"):
        shutil.copytree(path.parent, tmp_path / path.parent.relative_to(root))
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("Top\n<!-- results -->\n<!-- /results -->\nEnd\n")
    marks = "".join(f"<!-- {name} -->stale text<!-- /{name} -->\n" for name in MARKS)
    (tmp_path / "docs/studies.md").write_text(marks + "<!-- note -->a note<!-- /note -->\n")
    monkeypatch.setenv("BIVREC_ROOT", str(tmp_path))
    return tmp_path


def test_the_readme_has_ten_rows_and_the_studies_page_the_rest(project):
    write_pages()
    readme, studies = ((project / page).read_text() for page in PAGES)
    lines = readme.splitlines()
    assert lines[:2] == ["Top", "<!-- results -->"]
    assert lines[-2:] == ["<!-- /results -->", "End"]
    assert 1 <= len(lines[4:-2]) <= 10
    assert any(line.startswith("| bivrec |") for line in lines[4:-2])
    main = pd.read_csv(project / "results/08_report/all/main.csv").set_index(["model", "view"])
    best = main["ndcg@20"].groupby(["model", "view"]).mean().idxmax()
    assert all(f"{value:.3f}" in readme for value in main.loc[[best], "ndcg@20"])
    assert "stale text" not in studies and "<!-- note -->a note<!-- /note -->" in studies
    once = readme, studies
    write_pages()
    assert once == tuple((project / page).read_text() for page in PAGES)


def test_a_page_without_marks_is_named_and_nothing_is_written(project):
    (project / "docs/studies.md").write_text("<!-- main --><!-- /main -->")
    before = (project / "README.md").read_text()
    with pytest.raises(SettingsError, match="has the marks <!-- beyond --> and"):
        write_pages()
    assert (project / "README.md").read_text() == before


def test_missing_results_are_named(project):
    (project / "results/08_report/all/main.csv").unlink()
    missing = r"results/08_report/all/main\.csv is missing; `make repro` makes it"
    with pytest.raises(SettingsError, match=missing):
        write_pages()


def test_the_pages_show_the_results(root, project):
    """Every number in the tables of README.md and docs/studies.md comes from results/."""
    shutil.copy(root / "results/08_report/all/claims.csv", project / "results/08_report/all/")
    for page in PAGES:
        shutil.copy(root / page, project / page)
    write_pages()
    for page in PAGES:
        assert (project / page).read_text() == (root / page).read_text(), "run `make readme`"
