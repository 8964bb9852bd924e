"""Labels and colours of models and views."""

import pandas as pd

from bivrec.plots.style import COLOURS, colour_of, label_views, name_metric, style_views


def test_a_label_names_the_view_of_a_model_that_has_several():
    pairs = [("bivrec-one-target", "id"), ("sasrec", "id"), ("bivrec-one-target", "both")]
    table = pd.DataFrame([*pairs, *pairs], columns=["model", "view"])  # as on two datasets
    assert label_views(table) == {
        ("bivrec-one-target", "id"): "bivrec-one-target (ID view)",
        ("sasrec", "id"): "sasrec",
        ("bivrec-one-target", "both"): "bivrec-one-target (both views)",
    }


def test_no_two_rows_of_the_results_have_the_same_label(root):
    table = pd.read_csv(root / "results/08_report/all/main.csv")
    labels = list(label_views(table).values())
    assert len(labels) == len(table[["model", "view"]].drop_duplicates()) == len(set(labels))


def test_a_models_forms_share_its_colour():
    assert colour_of("bivrec, lent") == COLOURS["bivrec"] != colour_of("unknown")
    styles = style_views(pd.DataFrame({"model": "bivrec", "view": ["id", "both"]}))
    assert styles["bivrec", "id"]["color"] == styles["bivrec", "both"]["color"]
    assert styles["bivrec", "id"]["dashes"] != styles["bivrec", "both"]["dashes"]


def test_metrics_have_the_names_of_the_text():
    names = [name_metric(metric) for metric in ("ndcg@20", "recall@20", "hr@10")]
    assert names == ["NDCG@20", "Recall@20", "HR@10"]
