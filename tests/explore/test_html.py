"""Tables of the explorer as HTML."""

import pandas as pd

from bivrec.explore.html import name_items, shade, show_history, show_patches, show_top

ITEMS = {"item": [1, 2], "title": ["<b>x</b>", ""], "year": [1999, ""], "genres": ["a<i>", ""]}


def test_names_bear_the_year_once():
    table = pd.DataFrame(ITEMS)
    assert name_items(table) == ["<b>x</b> (1999)", "2"]
    assert name_items(table.assign(title="Alien (1979)", year=1979)) == ["Alien (1979)"] * 2


def test_what_data_say_is_escaped():
    table = pd.DataFrame(ITEMS)
    text = show_history(table, 5)
    assert "<i>" not in text and "a&lt;i&gt;" in text and "The model reads" not in text
    top = table.assign(view="id", rank=[1, 2], target=[True, False])
    assert "★ &lt;b&gt;x&lt;/b&gt; (1999)" in show_top(top)
    patch = {"scale": 1, "first": 0, "last": 0, "interest": 3, "share": 0.5}
    blocks = show_patches(pd.DataFrame([patch]), ['"quoted" <b>'])
    assert "&quot;quoted&quot; &lt;b&gt;: interest 3, share 0.50" in blocks and shade(3) in blocks


def test_items_beyond_the_models_length_are_marked():
    text = show_history(pd.DataFrame(ITEMS), 1)
    assert text.count('class="unread"') == 1 and "The model reads the newest 1." in text
