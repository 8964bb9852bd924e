"""The site in a real browser: nothing broken, small, reachable by keyboard, readable at two widths
and in two colours."""

import io
import re
import sys
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

SITE = Path(__file__).resolve().parents[2] / "site"
PAGES = sorted(str(path.relative_to(SITE)) for path in SITE.rglob("*.html"))
sys.path.insert(0, str(SITE.parent / "docs"))
LARGEST = 3_000_000
WIDTHS = (375, 1440)


@pytest.fixture(scope="module", params=["light", "dark"])
def context(request, chromium):
    made = chromium.new_context(color_scheme=request.param, reduced_motion="reduce")
    yield made
    made.close()


def test_there_is_a_site():
    assert len(PAGES) > 20 and "index.html" in PAGES, "run `make site`"


@pytest.mark.parametrize("name", PAGES)
def test_a_page(context, address, name):
    page, told, sizes = context.new_page(), [], {}
    page.on(
        "console",
        lambda message: told.append(message.text) if message.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("requestfailed", lambda asked: told.append(f"failed: {asked.url}"))
    page.on(
        "response",
        lambda answer: (
            sizes.update({answer.url: len(answer.body())})
            if answer.status == 200
            else told.append(f"{answer.status}: {answer.url}")
        ),
    )
    page.goto(f"{address}/{name}", wait_until="load")
    assert not told
    assert all(url.startswith(address) for url in sizes), "a page asks for something from elsewhere"
    assert sum(sizes.values()) < LARGEST, f"{name} has {sum(sizes.values()):,} bytes"
    images = page.eval_on_selector_all(
        "img", "all => all.map(i => [i.currentSrc, i.complete && i.naturalWidth > 0, i.alt.trim()])"
    )
    assert all(shown and len(alt) > 15 for _, shown, alt in images), images
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        wide = page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert wide[0] <= wide[1], f"{name} is {wide[0]} wide at {width}"
        if width == WIDTHS[-1] or not dark:
            assert not violations(page)
    page.close()


def violations(page) -> list[tuple[str, str, str]]:
    """What axe finds against WCAG 2.1 AA: the rule, the element, what to mend. It judges no text
    on a gradient, so what scrolls goes without its shades."""
    page.add_style_tag(content=".scroll, pre { background-image: none !important }")
    found = (
        Axe()
        .run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
        .response["violations"]
    )
    return [
        (rule["id"], rule["nodes"][0]["html"][:200], rule["nodes"][0]["failureSummary"])
        for rule in found
    ]


def test_what_is_pale_is_found(context, address):
    """The check can fail."""
    page = context.new_page()
    page.goto(f"{address}/claims.html")
    page.add_style_tag(content="p { color: #888 !important; background: #777 !important }")
    assert "color-contrast" in {rule for rule, _, _ in violations(page)}
    page.close()


def test_code_in_tables_breaks_between_words(context, address):
    page = context.new_page()
    page.set_viewport_size({"width": WIDTHS[-1], "height": 900})
    for name in ("profiles", "tasks", "experiments", "checks/tests"):
        page.goto(f"{address}/{name}.html")
        broken = page.eval_on_selector_all(
            "td code", "all => all.filter(c => c.getClientRects().length > 1).map(c => c.innerText)"
        )
        assert not [code for code in broken if re.fullmatch(r"\w+", code)], name
    page.close()


def test_a_table_shows_that_there_is_more(context, address):
    """A shade at the right edge before it is scrolled, at the left edge afterwards."""
    page = context.new_page()
    page.set_viewport_size({"width": WIDTHS[0], "height": 900})
    page.goto(f"{address}/claims.html")
    box = page.locator(".scroll").first
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")
    left, right = edges(box)
    box.evaluate("box => { box.scrollLeft = box.scrollWidth }")
    left_later, right_later = edges(box)
    page.close()
    assert left == right_later != right and left_later != left


def edges(box) -> list[tuple]:
    """The commonest colour of a box's first and of its last column of pixels."""
    picture = Image.open(io.BytesIO(box.screenshot())).convert("RGB")
    columns = [picture.crop((x, 0, x + 1, picture.height)) for x in (1, picture.width - 2)]
    return [max(column.getcolors(picture.height))[1] for column in columns]


def test_drawings_are_those_of_the_sources():
    """`make site` draws them; what is committed is what it draws."""
    from draw import draw_all

    assert all(
        (SITE.parent / "docs" / name).read_text("utf-8") == drawing
        for name, drawing in draw_all().items()
    )


def test_every_figure_of_a_notebook_is_told():
    """No figure falls back on the heading above it: docs/figures.yaml describes each."""
    texts = {name: (SITE / name).read_text("utf-8") for name in PAGES}
    assert not {
        name: re.findall(r'alt="Figure under[^"]*"', text)
        for name, text in texts.items()
        if 'alt="Figure under' in text
    }


def test_no_formula_shows_a_command():
    texts = {name: (SITE / name).read_text("utf-8") for name in PAGES}
    assert not {
        name: found
        for name, text in texts.items()
        if (found := re.findall(r"<m\w[^>]*>\\[^<]*", text))
    }


def test_links_lead_somewhere():
    """Every link inside the site, with its anchor."""
    ids = {
        name: set(re.findall(r'\bid="([^"]+)"', (SITE / name).read_text("utf-8"))) for name in PAGES
    }
    for name in PAGES:
        for url in re.findall(r'\b(?:href|src|srcset)="([^"]+)"', (SITE / name).read_text("utf-8")):
            if not re.match(r"[a-z]+:", url):
                path, _, anchor = url.partition("#")
                target = (SITE / name).parent / path if path else SITE / name
                assert target.is_file(), f"{name}: {url}"
                assert not anchor or anchor in ids[str(target.resolve().relative_to(SITE))], (
                    f"{name}: {url}"
                )


def test_keyboard(context, address):
    """The first Tab shows the way to the text; Tab then reaches the menu, and Enter opens a
    page."""
    page = context.new_page()
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto(f"{address}/index.html")
    page.keyboard.press("Tab")
    assert (
        page.evaluate("document.activeElement.className") == "skip"
        and page.locator(".skip").bounding_box()["x"] >= 0
    )
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.goto(f"{address}/index.html")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Claims and verdicts":
            break
    page.keyboard.press("Enter")
    page.wait_for_url("**/claims.html")
    page.set_viewport_size({"width": 375, "height": 800})
    page.goto(f"{address}/index.html")
    page.locator(".menu summary").focus()
    page.keyboard.press("Enter")
    page.locator(".menu a", has_text="Differences").click()
    page.wait_for_url("**/differences.html")
    page.close()


@pytest.mark.parametrize("name", ["index", "claims", "default/03_training/movies-classic", "api"])
def test_pictures(context, address, shots, name):
    """Pictures to be looked at, in build/pages."""
    for width in WIDTHS:
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(f"{address}/{name}.html")
        dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
        page.screenshot(
            path=shots / f"{name.replace('/', '-')}-{width}-{'dark' if dark else 'light'}.png",
            full_page=width == 1440,
        )
        page.close()
