"""Tables of the explorer as HTML."""

import pandas as pd

from bivrec.explore.html import (
    name_items,
    show_history,
    show_interests,
    show_key,
    show_patches,
    show_top,
)
from bivrec.plots.style import INTEREST_COLOURS, shade_of

ITEMS = {"item": [1, 2], "title": ["<b>x</b>", ""], "year": [1999, ""], "genres": ["a<i>", ""]}


def test_names_bear_the_year_once():
    table = pd.DataFrame(ITEMS)
    assert name_items(table) == ["<b>x</b> (1999)", "2"]
    assert name_items(table.assign(title="Alien (1979)", year=1979)) == ["Alien (1979)"] * 2


def test_what_data_say_is_escaped():
    table = pd.DataFrame(ITEMS)
    text = show_history(table, 5)
    assert "<i>" not in text and "a&lt;i&gt;" in text and "The model reads" not in text
    top = table.assign(view="id", rank=[1, 2], target=[True, False], interest=[2, -1])
    assert "★ &lt;b&gt;x&lt;/b&gt; (1999)" in show_top(top)
    patch = {"scale": 1, "first": 0, "last": 0, "interest": 3, "share": 0.5}
    blocks = show_patches(pd.DataFrame([patch]), ['"quoted" <b>'])
    assert (
        "&quot;quoted&quot; &lt;b&gt;: interest 3, share 0.50" in blocks and shade_of(3) in blocks
    )


def test_items_beyond_the_models_length_are_marked():
    text = show_history(pd.DataFrame(ITEMS), 1)
    assert text.count('class="unread"') == 1 and "The model reads the newest 1." in text


def test_a_shared_patch_shows_each_of_its_interests():
    patch = {"scale": 2, "first": 0, "last": 1}
    owners = [{**patch, "interest": 3, "share": 0.6}, {**patch, "interest": 1, "share": 0.3}]
    blocks = show_patches(pd.DataFrame(owners), ["a", "b"])
    assert blocks.count('class="patch"') == 1 and 0 < blocks.index(">3<") < blocks.index(">1<")
    assert shade_of(1) in blocks and shade_of(3) in blocks
    assert "a + b: interest 3, share 0.60, interest 1, share 0.30" in blocks


def test_an_item_shows_the_interest_that_recommends_it():
    top = pd.DataFrame(ITEMS).assign(view="id", rank=[1, 2], target=False, interest=[2, -1])
    text = show_top(top)
    assert text.count('class="key"') == 1 and show_key(2) in text and show_key(-1) == ""


def test_an_interest_shows_what_it_owns_and_recommends():
    table = pd.DataFrame(ITEMS).assign(interest=1, kind=["owned", "recommended"])
    text = show_interests(table)
    owned, recommended = text.index("newest items of the history"), text.index("recommends")
    assert owned < text.index("&lt;b&gt;x") < recommended < text.index("<td>2</td>")
    assert "<td>none</td>" in show_interests(table[1:])


def test_interests_have_colours_of_their_own():
    shades = [shade_of(interest) for interest in range(len(INTEREST_COLOURS))]
    assert len(set(shades)) == len(shades) and shade_of(len(shades)) == shades[0]
