"""Finishes a page: links that work in the site, accessible tables, code and figures."""

import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from bs4 import BeautifulSoup, Comment, Tag
from common import ROOT, BuildError, Page
from PIL import Image

MAX_BYTES = 1_000_000  # of a file of the repository that the site includes
ALIASES = {"results": "studies.html", "data/README.md": "data.html"}  # by path in the repository


@dataclass
class Finisher:
    """Finishes the pages of one site."""

    site: Path
    pages: list[Page]
    targets: dict[str, str] = field(init=False)  # path in the site, by path in the repository

    def __post_init__(self) -> None:
        self.targets = {page.source: page.path for page in self.pages if page.source} | ALIASES
        self.targets |= {page.path: page.path for page in self.pages if not page.source}
        # a notebook's source leads to the first page that shows it executed
        for page in self.pages:
            if page.source.startswith("results/"):
                self.targets.setdefault(f"notebooks/{Path(page.source).name}", page.path)

    def finish(self, page: Page, body: str) -> str:
        """The page's body, ready for the template. Raises BuildError for a broken link."""
        soup = BeautifulSoup(body, "html.parser")
        remove_clutter(soup)
        self.link(soup, page)
        for image in soup.select("img[src]"):
            self.frame(image, page)
        for paragraph in soup.find_all("p"):
            if paragraph.find("div"):
                paragraph.name = "div"
        make_accessible(soup)
        return str(soup)

    def link(self, soup: BeautifulSoup, page: Page) -> None:
        """Replaces the addresses of links and images by those in the site."""
        ids = {node["id"] for node in soup.select("[id]")}
        for node in soup.select("a[href]"):
            url = self.resolve(page, node["href"], ids)
            if url is None:
                node.unwrap()
            else:
                node["href"] = url
        for attribute in ("src", "srcset"):
            for node in soup.select(f"[{attribute}]:not([{attribute}^='data:'])"):
                node[attribute] = self.resolve(page, node[attribute], ids)

    def resolve(self, page: Page, url: str, ids: set[str]) -> str | None:
        """An address in a page's source as one in the site; None if the site lacks its target."""
        address, _, anchor = url.partition("#")
        if re.match(r"[a-z]+:", url):
            return url
        if not address:
            return url if anchor in ids else None
        folder = (self.site / page.path).parent
        if not page.source.endswith(".md") and (folder / address).is_file():
            return url  # a figure of a notebook
        path = (ROOT / page.source).parent if page.source else ROOT
        target = self.find_target((path / address).resolve(), page, url)
        if target is None:
            return None
        if target.startswith("files/"):
            anchor = ""  # a file copied as it is has no anchors
        relative = os.path.relpath(target, Path(page.path).parent)
        return f"{relative}#{anchor}" if anchor else relative

    def find_target(self, path: Path, page: Page, url: str) -> str | None:
        """The site's page for a file or folder of the repository, or a copy of the file."""
        name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else ""
        if name in self.targets:
            return self.targets[name]
        if path.is_dir():
            inside = (
                self.targets[source] for source in self.targets if source.startswith(f"{name}/")
            )
            return next(inside, None)
        if not path.exists():
            raise BuildError(f"{page.source or page.path} links to {url!r}, which does not exist")
        return self.copy(path) if path.stat().st_size <= MAX_BYTES else None

    def copy(self, path: Path) -> str:
        """Copies a file of the repository into the site and returns its path there, without the
        dots before names, since GitHub Pages omits hidden files."""
        target = re.sub(r"/\.", "/", f"files/{path.relative_to(ROOT)}")
        (self.site / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, self.site / target)
        return target

    def frame(self, image: Tag, page: Page) -> None:
        """Puts an image into a box, which scrolls if the image is wide."""
        if not image.get("alt", "").strip():
            message = f"{page.path}: the image {image['src'][:60]!r} has no alternative text"
            raise BuildError(f"{message}; add one to docs/figures.yaml")
        file = Path(os.path.normpath(self.site / Path(page.path).parent / image["src"]))
        if file.suffix == ".png":
            image["width"], image["height"] = Image.open(file).size
        outer = image.parent if image.parent.name == "picture" else image
        box = outer.wrap(Tag(name="div", attrs={"class": "figure"}))
        if file.suffix == ".svg" or image["width"] > 640:
            image["class"] = "wide"
            box.attrs |= scrollable("Figure")


def scrollable(what: str) -> dict[str, str]:
    """Attributes of a box that the keyboard can reach and scroll."""
    return {"tabindex": "0", "role": "group", "aria-label": f"{what}, scrolls sideways"}


def remove_clutter(soup: BeautifulSoup) -> None:
    """Removes styles, scripts, prompts and comments."""
    for node in soup.select("style, .prompt, .anchor-link, script"):
        node.decompose()
    for comment in soup.find_all(string=lambda text: isinstance(text, Comment)):
        comment.extract()


def make_accessible(soup: BeautifulSoup) -> None:
    """Scrollable tables with column headings, focusable code, a single main heading."""
    for table in soup.find_all("table"):
        table.attrs = {"class": table.get("class", [])}
        table.wrap(Tag(name="div", attrs={"class": "scroll", **scrollable("Table")}))
        for head in table.select("thead th"):
            head["scope"] = "col"
            head.attrs.pop("style", None)
            if not head.get_text(strip=True):
                head.name, head.attrs = "td", {}
    for node in soup.find_all("pre"):
        node["tabindex"] = "0"
    for heading in soup.find_all("h1")[1:]:
        heading.name = "h2"
