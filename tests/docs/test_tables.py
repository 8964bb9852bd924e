"""The site's tables."""

import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd


def test_every_claim_has_its_family_and_what_could_be_detected(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "docs")
    render = SimpleNamespace(FIGURES={}, markdown=str)  # its packages are optional
    monkeypatch.setitem(sys.modules, "render", render)
    from tables import render_verdicts

    rows = [
        ("confirmatory", 0.1, 0.05, 0.15, 0.04, "holds"),
        ("exploratory", 0.0, np.nan, np.nan, np.nan, "open"),
    ]
    claims = pd.DataFrame(rows, columns=["family", "mean", "low", "high", "detectable", "verdict"])
    claims = claims.assign(claim="c", dataset="d", metric="ndcg@20", ours="x id", theirs="y id")
    page = render_verdicts(claims.assign(**{"adjusted p": [0.01, 1.0]}))
    assert "2 tests: 1 holds, 0 fails, 0 negligible, 1 open" in page
    for cell in ("confirmatory", "exploratory", "+0.100 (+0.050 to +0.150)", "0.040"):
        assert f"<td>{cell}</td>" in page
    assert "<th>detectable</th>" in page and "nan" not in page.lower()
