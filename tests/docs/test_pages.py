"""The Markdown pages: their links, README's size and its Python example."""

import contextlib
import io
import re
import subprocess
from pathlib import Path

import jinja2
import pytest

ANCHOR = re.compile(r"[^a-z0-9_ -]")
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")


def pages(root: Path) -> list[Path]:
    listed = ["git", "ls-files", "-co", "--exclude-standard", "*.md"]
    names = subprocess.run(listed, cwd=root, capture_output=True, text=True, check=True).stdout
    return [root / name for name in names.splitlines() if (root / name).is_file()]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub names them."""
    headings = re.findall(r"(?m)^#+ (.*)$", page.read_text())
    return {ANCHOR.sub("", re.sub("[`*]", "", text).lower()).replace(" ", "-") for text in headings}


def test_links_and_anchors_exist(root):
    broken = []
    for page in pages(root):
        for link in (one or other for one, other in LINK.findall(page.read_text())):
            address, _, anchor = link.partition("#")
            target = (page.parent / address) if address else page
            if re.match(r"[a-z]+:", link):
                continue
            if not target.exists():
                broken.append(f"{page.relative_to(root)}: {link}")
            elif anchor and target.suffix == ".md" and anchor not in anchors(target):
                broken.append(f"{page.relative_to(root)}: {link} (no such heading)")
    assert not broken


def test_a_missing_link_is_noticed(tmp_path):
    (tmp_path / "a.md").write_text("# One\n[gone](b.md) [here](#one) [nowhere](#two)\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    with pytest.raises(AssertionError, match=r"b\.md.*#two"):
        test_links_and_anchors_exist(tmp_path)


def test_the_site_hides_no_file(root, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(root / "docs")
    from finish import Finisher

    target = Finisher(tmp_path, []).copy(root / ".github" / "workflows" / "checks.yml")
    assert target == "files/github/workflows/checks.yml" and (tmp_path / target).is_file()


def test_the_menu_names_its_pages(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "docs")
    from common import Page

    loader = jinja2.FileSystemLoader(root / "docs")
    template = jinja2.Environment(loader=loader).get_template("page.html.j2")
    menu = [("The study", [Page("claims.html", "Claims and verdicts", "The study", str)])]
    text = template.render(menu=menu, title="", path="", up="", current="The study", body="")
    assert text.count('<a href="claims.html">Claims and verdicts</a>') == 2


def test_readme_is_short(root):
    assert len((root / "README.md").read_bytes()) <= 8_192


@pytest.mark.slow
def test_the_example_in_readme_runs(root):
    """It prints lines as shown; the items that it recommends may differ between processors."""
    blocks = r"```python\n(.*?)```\n.*?```\n(.*?)```"
    code, shown = re.search(blocks, (root / "README.md").read_text(), re.DOTALL).groups()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})  # noqa: S102
    lines, expected = printed.getvalue().splitlines(), shown.splitlines()
    assert lines[0] == expected[0] and len(lines) == len(expected)
    for line, example in zip(lines[1:], expected[1:]):
        assert line.partition(":")[0] == example.partition(":")[0]
        assert set(re.findall(r"[A-Z]\w+ \d+", line)).isdisjoint(
            lines[0].split(": ")[1].split(", ")
        )
        assert re.search("Moon|Window", line)
