"""The explorer's widgets."""

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from bivrec.errors import SettingsError
from bivrec.explore import widgets as module
from bivrec.explore.widgets import Explorer


@pytest.fixture(scope="module")
def explorer():
    return Explorer()


def test_the_explorer_shows_what_is_chosen(explorer):
    before = explorer.lists.value
    assert "ID view" in before and "both views" in before
    assert "patches of 4" in explorer.patches.value
    explorer.user.value = 3
    assert explorer.lists.value != before
    assert len(explorer.history) == len(explorer.cases.histories[3])
    assert explorer.past.value.count("<tr") == len(explorer.history) + 1
    explorer.view.value = "multimodal"
    assert "recommends" in explorer.interests.value and 'class="key"' in explorer.lists.value


def test_the_explorer_adds_and_removes(explorer):
    explorer.user.value = 3
    explorer.reset.click()
    original, before = explorer.history, explorer.lists.value
    new = (label for label, number in explorer.items.items() if number not in original)
    explorer.addition.value = next(new)
    explorer.add.click()
    assert len(explorer.history) == len(original) + 1 and explorer.lists.value != before
    explorer.removal.value = len(original)
    explorer.remove.click()
    assert np.array_equal(explorer.history, original) and explorer.lists.value == before
    explorer.history = original[:1]
    explorer.show()
    explorer.remove.click()
    assert "cannot be continued" in explorer.status.value and len(explorer.history) == 1
    explorer.reset.click()
    assert explorer.lists.value == before


def test_the_explorer_under_noise(explorer):
    explorer.user.value = 3
    before = explorer.lists.value
    for noise in ("items replaced", "items deleted", "features blurred", "text missing"):
        explorer.noise.value, explorer.level.value = noise, 0.8
        assert explorer.lists.value != before, noise
    explorer.noise.value = "none"
    assert explorer.lists.value == before and explorer.level.disabled


def test_the_explorer_with_models_without_interests(explorer):
    explorer.model.value = "popularity"
    assert "no interests" in explorer.patches.value and "ID view" in explorer.lists.value
    explorer.model.value = "bivrec"
    assert "patches of 1" in explorer.patches.value


def lack(*_, **__):
    raise SettingsError("the checkpoint is missing")


def touch(explorer) -> None:
    """Uses everything but dataset and model."""
    explorer.noise.value, explorer.view.value = "items replaced", "multimodal"
    explorer.noise.value, explorer.view.value = "none", "id"
    for act in (explorer.add_item, explorer.remove_item, explorer.choose_user, explorer.show):
        act()


def test_the_explorer_shows_nothing_of_an_earlier_model(explorer, monkeypatch):
    explorer.user.value, explorer.view.value = 0, "id"
    before = explorer.lists.value
    with monkeypatch.context() as patch:
        patch.setattr(module, "load", lack)
        explorer.model.value = "pure-mm"
    touch(explorer)
    assert explorer.status.value == "<b>the checkpoint is missing</b>"
    for part in (explorer.lists, explorer.patches, explorer.interests, explorer.past):
        assert part.value == ""
    assert explorer.recommender is None and not explorer.addition.options
    assert explorer.user.options == explorer.removal.options == ()
    explorer.model.value = "bivrec"
    assert explorer.lists.value == before


def test_the_explorer_that_can_load_nothing(monkeypatch):
    monkeypatch.setattr(module, "load", lack)
    explorer = Explorer("movies-classic")
    touch(explorer)
    assert explorer.status.value == "<b>the checkpoint is missing</b>"


def test_the_explorer_leaves_no_bar_that_has_gone(root, monkeypatch):
    """A page shows an error where a progress bar has gone."""
    first = nbformat.read(root / "notebooks/explore.ipynb", 4).cells[1]
    assert "from bivrec.explore.widgets import" in first.source, "before any model is loaded"
    monkeypatch.delenv("BIVREC_TERMINAL")
    count = (
        "from bivrec.outputs import progress\nlen(list(progress(range(3), 'training', 'steps')))"
    )
    book = new_notebook(cells=[new_code_cell(first.source), new_code_cell(count)])
    NotebookClient(book, kernel_name="python3", timeout=300).execute()
    assert [output.output_type for cell in book.cells for output in cell.get("outputs", ())] == [
        "execute_result"
    ]
