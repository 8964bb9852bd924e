"""Builds the website of the study into site/.

python docs/build.py [FOLDER]

The site consists of README, the pages in docs/, the executed notebooks, the tables of results/ and
a reference of the package. Pages contain no scripts and load nothing from elsewhere; formulas are
MathML.
"""

import os
import shutil
import sys
from pathlib import Path

import jinja2
from common import DOCS, ROOT, BuildError, Page
from finish import Finisher
from pages import list_pages


def group_pages(pages: list[Page]) -> list[tuple[str, list[Page]]]:
    """The menu: pages by group, groups in order of first appearance."""
    groups: dict[str, list[Page]] = {}
    for page in pages:
        groups.setdefault(page.group, []).append(page)
    return list(groups.items())


def write_page(page: Page, body: str, menu: list, template: jinja2.Template, site: Path) -> None:
    up = os.path.relpath(".", Path(page.path).parent) + "/"
    text = template.render(
        title=page.title or page.label,
        path=page.path,
        up="" if up == "./" else up,
        menu=menu,
        current=page.group,
        body=body,
    )
    (site / page.path).write_text(text, "utf-8")


def build(site: Path) -> list[Page]:
    """Builds the whole site in a temporary folder, then replaces `site` by it."""
    fresh = site.with_name(f".{site.name}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    pages = list_pages()
    finisher, menu = Finisher(fresh, pages), group_pages(pages)
    loader = jinja2.FileSystemLoader(DOCS)
    environment = jinja2.Environment(
        loader=loader, trim_blocks=True, autoescape=False, undefined=jinja2.StrictUndefined
    )
    template = environment.get_template("page.html.j2")
    for page in pages:
        file = fresh / page.path
        file.parent.mkdir(parents=True, exist_ok=True)
        body = finisher.finish(page, page.render(file))
        write_page(page, body, menu, template, fresh)
    for name in ("style.css", "icon.svg"):
        shutil.copyfile(DOCS / name, fresh / name)
    (fresh / ".nojekyll").touch()
    shutil.rmtree(site, ignore_errors=True)
    os.replace(fresh, site)
    return pages


def main() -> int:
    site = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site"
    try:
        pages = build(site.resolve())
    except BuildError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    print(f"{len(pages)} pages in {site}; open {site}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
