"""Builds the study's site into site/: executed notebooks, README and DIFFERENCES, tables of results/, docstrings. No page
needs a script or anything from elsewhere; formulas are MathML. `python docs/build.py [FOLDER]`."""

import ast
import html
import json
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import mistune
import nbformat
import pandas as pd
from bs4 import BeautifulSoup
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from PIL import Image
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
LARGEST = 1_000_000  # bytes of a file that the site carries along
PROFILES = {
    "default": "The study",
    "full": "Profile full",
    "wide": "Profile wide",
    "comirec": "Profile comirec",
}
STAGES = {
    "01_data_prep": "Data", "02_feature_encoding": "Features", "03_training": "Training", "04_ablations": "Ablations", "05_noise": "Noise",
    "06_cold_start": "Cold start", "07_cross_dataset": "Transfer", "08_report": "Report", "09_tuning": "Tuning", "10_protocols": "Protocols",
}  # fmt: skip
FIGURES = {  # what a figure shows, by the name under which its notebook keeps it, or by what draws it
    "histories": "Two panels: how many users have histories of each length, the median marked; and interactions by item, most popular first, on logarithmic axes",
    "features": "Items on the first two principal components, a panel a modality, coloured by first genre",
    "curves": "Two panels by training step: training loss in nats of each model, and its NDCG@20 on the validation users by view",
    "cost": "NDCG@20 on the validation users against what training had cost so far, a line a model, cost on a logarithmic axis",
    "field": "NDCG@20 of every model and view on the test users: a dot for the mean, a bar for the 95 % interval, best on top",
    "allocation": "Heat maps of one test user's patches and the share each gives to each interest, a panel a scale; patches named by their newest film",
    "interests": "All test users' interests on a plane (t-SNE), a panel a view, coloured by interest token",
    "ablations": "Differences in NDCG@20 between each variant and the whole model, a panel a view, with 95 % intervals; grey bars cross zero",
    "grid-interests": "Heat map of NDCG@20 by number of interests and patches' nearest interests, a panel a view, the study's own setting framed",
    "noise": "Share of the clean NDCG@20 that each model keeps as noise grows, a panel a kind of noise, with intervals over users",
    "noise-recall": "Share of the clean recall@20 that each model keeps as noise grows, a panel a kind of noise, with intervals over users",
    "cold-start": "NDCG@20 by length of the user's history and by the target's number of interactions, a line a model and view, with intervals",
    "new-items": "NDCG@20 for items that no model met in training, by model and view, with 95 % intervals",
    "transfer": "NDCG@20 on the target by share of its users trained on, a line a way to start, with intervals; popularity as a level",
    "main": "NDCG@20 of every model and view, a panel a dataset: a dot for the mean over test users, a bar for the 95 % interval, best on top",
    "costs": "NDCG@20 against the operations of training up to the best step, on a logarithmic axis, a mark a model, a panel a dataset",
    "tuning": "NDCG@20 on the validation users of every trial of each model's grid of learning rates and dropouts",
    "protocols": "NDCG@20 of every model under three protocols, a panel each, with 95 % intervals",
    "draw_grid": "Heat map of NDCG@20 under a grid of settings, a panel a view, the study's own setting framed",
    "draw_images": "A few of the generated pictures, one of each kind",
}  # fmt: skip


class BuildError(ValueError):
    """The site cannot be built; the message names the file and the mend."""


@dataclass(frozen=True)
class Page:
    """A page: where it lies in the site, its place in the menu, what it is made from, and what makes its body."""

    path: str
    short: str
    group: str
    source: str
    render: Callable[[], str] = field(repr=False)
    title: str = ""


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"<[^>]*>", "", text).lower()).strip("-")


def script(letter: str) -> str:
    """A script capital as a letter of its own, which browsers show without a font for mathvariant."""
    try:
        return unicodedata.lookup(f"SCRIPT CAPITAL {letter}")
    except KeyError:
        return unicodedata.lookup(f"MATHEMATICAL SCRIPT CAPITAL {letter}")


def math(source: str, display: str = "inline") -> str:
    """A formula as MathML, in a box that scrolls where it is wider than the page."""
    shown = re.sub(
        r'<mi mathvariant="script">([A-Z])</mi>',
        lambda found: f"<mi>{script(found[1])}</mi>",
        convert(source.strip(), display=display),
    )
    if display != "block" and len(source) <= 40:
        return shown
    kind, name = ("div", "scroll") if display == "block" else ("span", "mathbox")
    return f'<{kind} class="{name}" tabindex="0" role="group" aria-label="Formula, scrolls sideways">{shown}</{kind}>'


class Renderer(mistune.HTMLRenderer):
    """Markdown to HTML: headings with anchors, formulas as MathML, code in colour."""

    def heading(self, text: str, level: int, **attrs) -> str:
        return f'<h{level} id="{slug(text)}">{text}</h{level}>\n'

    def inline_math(self, text: str) -> str:
        return math(html.unescape(text))

    def block_math(self, text: str) -> str:
        return math(html.unescape(text), "block")

    def block_code(self, code: str, info: str | None = None) -> str:
        try:
            return highlight(code, get_lexer_by_name(info or "text"), HtmlFormatter())
        except ClassNotFound:
            return f"<pre>{html.escape(code)}</pre>"


markdown = mistune.create_markdown(
    renderer=Renderer(escape=False), plugins=["table", "strikethrough", "math"]
)


def alt_of(source: str, heading: str, where: str) -> str:
    """What a cell's figure shows: by its kept name, by what draws it, else by the heading above it."""
    names = [*re.findall(r"[\"']([\w-]+)\.png[\"']", source), *re.findall(r"\bdraw_\w+", source)]
    told = next((FIGURES[name] for name in names if name in FIGURES), None)
    return f"{told or f'Figure under the heading “{heading}”'} ({where})"


def render_notebook(path: Path, where: str, images: Path) -> str:
    """An executed notebook: prose, code and outputs; its figures become files beside the page."""
    notebook, heading = nbformat.read(path, 4), path.stem
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = next(
                (line.lstrip("# ") for line in cell.source.splitlines() if line.startswith("#")),
                heading,
            )
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.metadata = {"image/png": {"alt": alt_of(cell.source, heading, where)}}
    notebook.cells = [
        cell for cell in notebook.cells if not (cell.cell_type == "code" and set_up(cell))
    ]
    exporter = HTMLExporter(
        template_name="basic", filters={"markdown2html": lambda source: markdown(source)}
    )
    exporter.register_preprocessor(
        "nbconvert.preprocessors.ExtractOutputPreprocessor", enabled=True
    )
    body, resources = exporter.from_notebook_node(
        notebook, {"unique_key": path.stem, "output_files_dir": path.stem}
    )
    for name, content in resources["outputs"].items():
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).write_bytes(content)
    return body


def set_up(cell: nbformat.NotebookNode) -> bool:
    """Whether a cell only imports; a reader of pages skips it."""
    try:
        return all(
            isinstance(node, ast.Import | ast.ImportFrom) or "set_theme" in ast.unparse(node)
            for node in ast.parse(cell.source).body
        )
    except SyntaxError:
        return False


def table_html(table: pd.DataFrame) -> str:
    return table.to_html(index=False, border=0, escape=True).replace(
        'class="dataframe"', 'class="plain"'
    )


def claims_of(profile: str) -> pd.DataFrame:
    folder = ROOT / "results" / ("" if profile == "default" else profile) / "08_report" / "all"
    return pd.read_csv(folder / "claims.csv", keep_default_na=False)


def with_claims() -> list[str]:
    return [
        profile
        for profile in PROFILES
        if (
            ROOT
            / "results"
            / ("" if profile == "default" else profile)
            / "08_report"
            / "all"
            / "claims.csv"
        ).is_file()
    ]


def render_claims() -> str:
    """Every test of every profile, with its verdict."""
    parts = ["<h1>Claims and verdicts</h1>", markdown(
        "Each row is a paired test over the same test users. The p-values are adjusted by Holm over a profile's whole table. "
        "*holds*: above zero, adjusted p below 0.05; *fails*: below zero, likewise; *open*: neither can be said with these users."
    )]  # fmt: skip
    for profile in with_claims():
        claims = claims_of(profile)
        counts = claims["verdict"].value_counts()
        parts.append(f'<h2 id="{profile}">{PROFILES[profile]}</h2>')
        parts.append(
            f"<p>{len(claims)} tests: "
            + ", ".join(
                f"{counts.get(verdict, 0)} {verdict}" for verdict in ("holds", "fails", "open")
            )
            + ".</p>"
        )
        claims["effect on NDCG@20"] = [
            f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"
            for mean, low, high in claims[["mean", "low", "high"]].to_numpy()
        ]
        claims["adjusted p"] = claims["adjusted p"].map("{:.3f}".format)
        parts.append(
            table_html(
                claims[
                    [
                        "claim",
                        "dataset",
                        "ours",
                        "theirs",
                        "effect on NDCG@20",
                        "adjusted p",
                        "verdict",
                    ]
                ]
            )
        )
    return re.sub(r"<td>(holds|fails|open)</td>", r'<td class="\1">\1</td>', "\n".join(parts))


def render_overview() -> str:
    """README's opening and first results, the verdicts in numbers, and where to go on."""
    text = (ROOT / "README.md").read_text("utf-8")
    opening = re.sub(
        r"(?m)^\|.*\n", "", text.split("\n## ")[0]
    )  # its small pictures stand larger below
    results = text.split("\n## Results\n")[1].split("<!-- /main full -->")[0]
    counts = (
        pd.DataFrame(
            {PROFILES[name]: claims_of(name)["verdict"].value_counts() for name in with_claims()}
        )
        .fillna(0)
        .astype(int)
    )
    counts = (
        counts.reindex(["holds", "fails", "open"])
        .fillna(0)
        .astype(int)
        .T.rename_axis(columns=None)
        .reset_index(names="tests of")
    )
    cards = {
        "claims.html": ("Claims and verdicts", "every test with its interval"),
        "default/03_training/movies-classic.html": (
            "Training",
            "the field, its curves, and interests that can be seen",
        ),
        "differences.html": ("Differences", "what is the paper's, what is our reconstruction"),
        "data.html": ("Data cards", "where the data come from, what was kept"),
        "guide.html": ("Guide", "how to run it, and what is where"),
        "api.html": ("Reference", "every public function"),
    }
    shown = "".join(
        f'<li><a href="{path}">{name}</a>{about}</li>' for path, (name, about) in cards.items()
    )
    return "\n".join([
        markdown(opening), f'<ul class="cards">{shown}</ul>', "<h2>Results</h2>", markdown(results),
        f'<p><img src="results/full/08_report/all/main.png" alt="{FIGURES["main"]} (profile full)"></p>',
        '<h2>Verdicts</h2><p>How many of the tests hold, fail or stay open; <a href="claims.html">all of them</a>.</p>', table_html(counts),
    ])  # fmt: skip


def render_data() -> str:
    """The data cards that stage 01 kept, with counts and the figure of histories."""
    parts = ["<h1>Data cards</h1>"]
    for card in sorted((ROOT / "results" / "01_data_prep").glob("*/card.csv")):
        name = card.parent.name
        counts = json.loads((card.parent / "statistics.json").read_text("utf-8"))
        parts.append(
            f'<h2 id="{name}">{name}</h2><p>'
            + ", ".join(f"{count:,} {what}" for what, count in counts.items())
            + ".</p>"
        )
        parts.append(table_html(pd.read_csv(card, keep_default_na=False)))
        parts.append(
            f'<p><img src="results/01_data_prep/{name}/histories.png" alt="{FIGURES["histories"]} ({name})"></p>'
        )
    about = (
        (ROOT / "data" / "README.md").read_text("utf-8")
        if (ROOT / "data" / "README.md").is_file()
        else ""
    )
    return "\n".join(parts) + markdown(about.replace("# ", "## ", 1))


def signature(node: ast.FunctionDef) -> str:
    return f"{node.name}({ast.unparse(node.args)})" + (
        f" -> {ast.unparse(node.returns)}" if node.returns else ""
    )


def public(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and (
            not node.name.startswith("_") or node.name == "__init__"
        ):
            yield node


def render_api() -> str:
    """Every public function and class from the sources, in reading order, without importing them."""
    tree = ast.parse((ROOT / "bivrec" / "__init__.py").read_text("utf-8"))
    order = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "READING_ORDER"
    )
    parts = [
        "<h1>Reference</h1>",
        markdown(
            "The module's files in the order to read them. Shapes are [jaxtyping](https://docs.kidger.site/jaxtyping/)'s."
        ),
        "<ul>",
    ]
    parts += [f'<li><a href="#{name}"><code>bivrec.{name}</code></a></li>' for name in order] + [
        "</ul>",
        '<div class="api">',
    ]
    for name in order:
        module = ast.parse((ROOT / "bivrec" / f"{name}.py").read_text("utf-8"))
        parts.append(
            f'<h2 id="{name}">bivrec.{name}</h2>{markdown(ast.get_docstring(module) or "")}'
        )
        for node in public(module.body):
            kind = "class " if isinstance(node, ast.ClassDef) else ""
            parts.append(f'<h3 id="{name}.{node.name}">{kind}{node.name}</h3>')
            if not kind:
                parts.append(
                    highlight(signature(node), get_lexer_by_name("python"), HtmlFormatter())
                )
            parts.append(markdown(ast.get_docstring(node) or ""))
            for inner in public(node.body) if kind else ():
                if isinstance(inner, ast.FunctionDef) and ast.get_docstring(inner):
                    parts.append(
                        highlight(signature(inner), get_lexer_by_name("python"), HtmlFormatter())
                        + markdown(ast.get_docstring(inner))
                    )
    return "\n".join(parts) + "</div>"


def from_markdown(name: str) -> Callable[[], str]:
    return lambda: markdown((ROOT / name).read_text("utf-8"))


def list_pages(site: Path) -> list[Page]:
    """Every page, in the order of the menu."""
    pages = [
        Page("index.html", "Overview", "The study in short", "", render_overview, "Overview"),
        Page("claims.html", "Claims and verdicts", "The study in short", "", render_claims),
        Page(
            "differences.html",
            "Differences to the paper",
            "The study in short",
            "DIFFERENCES.md",
            from_markdown("DIFFERENCES.md"),
        ),
        Page("data.html", "Data cards", "The study in short", "", render_data),
        Page("guide.html", "Guide", "The study in short", "README.md", from_markdown("README.md")),
    ]
    others = [
        ("docs/model_card.md", "model-card.html", "Model card", "The study in short"), ("docs/experiments.md", "experiments.html", "Own experiments", "The study in short"),
        ("results/ml-1m/README.md", "checks/ml-1m.html", "MovieLens-1M", "Checks"), ("results/ml-100k/README.md", "checks/ml-100k.html", "MovieLens-100K", "Checks"),
        ("benchmarks/README.md", "checks/speed.html", "Speed", "Checks"), ("raw/plain-example/README.md", "checks/own-data.html", "Data of one's own", "Checks"),
    ]  # fmt: skip
    found = [
        Page(path, short, group, source, from_markdown(source))
        for source, path, short, group in others
        if (ROOT / source).is_file()
    ]
    pages += [page for page in found if page.group != "Checks"]
    for profile, group in PROFILES.items():
        for stage, name in STAGES.items():
            for path in sorted(
                (ROOT / "results" / ("" if profile == "default" else profile) / stage).glob(
                    "*/*.ipynb"
                )
            ):
                label, target = path.parent.name, f"{profile}/{stage}/{path.parent.name}.html"
                short = (
                    name if label == "all" else f"{name}: {label.replace('-movies', ' to movies')}"
                )
                where = f"{label}, profile {profile}" if label != "all" else f"profile {profile}"
                render = lambda path=path, where=where, target=target: render_notebook(
                    path, where, (site / target).parent
                )  # noqa: E731
                pages.append(
                    Page(
                        target,
                        short,
                        group,
                        str(path.relative_to(ROOT)),
                        render,
                        f"{short}, {group.lower()}",
                    )
                )
    for path in sorted(
        path for kind in ("md", "ipynb") for path in (ROOT / "assignments").rglob(f"*.{kind}")
    ):
        if not re.search(r"solution|checkpoint", str(path.relative_to(ROOT))):
            name, target = (
                str(path.relative_to(ROOT)),
                "course/"
                + slug(str(path.relative_to(ROOT / "assignments").with_suffix("")))
                + ".html",
            )
            render = (
                from_markdown(name)
                if path.suffix == ".md"
                else lambda path=path, target=target: render_notebook(
                    path, "course", (site / target).parent
                )
            )
            short = "About the course" if path.stem == "README" else path.stem.replace("_", " ")
            pages.append(Page(target, short, "Course", name, render))
    return [
        *pages,
        *(page for page in found if page.group == "Checks"),
        Page("api.html", "Reference of the module", "Reference", "", render_api),
    ]


def copy_file(site: Path, source: Path) -> str:
    """A file of the project carried along; its path in the site."""
    target = f"files/{source.relative_to(ROOT)}"
    (site / target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, site / target)
    return target


def resolve(site: Path, page: Page, url: str, known: dict[str, str], ids: set[str]) -> str | None:
    """An address in a page's source as one in the site; None where the site does not carry what it points at."""
    address, _, anchor = url.partition("#")
    if re.match(r"[a-z]+:", url):
        return url
    if not address:
        return url if anchor in ids else None
    if (site / Path(page.path).parent / address).is_file() and not (
        ROOT / page.source
    ).suffix == ".md":
        return url
    up, target = os.path.relpath(".", Path(page.path).parent), None
    if address in known.values():
        target = address
    else:
        path = (ROOT / Path(page.source).parent / address).resolve()
        name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else ""
        if path.is_dir():
            target = next(
                (site_path for source, site_path in known.items() if source.startswith(f"{name}/")),
                None,
            )
        elif name in known:
            target = known[name]
        elif path.is_file() and path.stat().st_size <= LARGEST:
            target, anchor = copy_file(site, path), ""  # a file as it is has no anchors
        elif not path.exists():
            raise BuildError(
                f"{page.source or page.path} points at {url!r}, which is not there; mend the link"
            )
    return target and os.path.normpath(f"{up}/{target}") + (f"#{anchor}" if anchor else "")


def finish(site: Path, page: Page, body: str, known: dict[str, str]) -> str:
    """Addresses made the site's, tables and code reachable by keyboard, figures with text and size."""
    soup = BeautifulSoup(body, "html.parser")
    for node in soup.select("style, .prompt, .anchor-link, script"):
        node.decompose()
    for node in soup.find_all(
        string=lambda text: isinstance(text, type(soup.new_string(""))) is False
    ):
        node.extract()  # comments
    ids = {node["id"] for node in soup.select("[id]")}
    for node in soup.select("a[href]"):
        url = resolve(site, page, node["href"], known, ids)
        if url is None:
            node.unwrap()
        else:
            node["href"] = url
    for node in soup.select("img[src], source[srcset]"):
        name = "src" if node.name == "img" else "srcset"
        if not (node[name].startswith("data:")):
            node[name] = resolve(site, page, node[name], known, ids)
        if node.name == "img":
            if not node.get("alt", "").strip():
                raise BuildError(
                    f"{page.path}: the image {node['src'][:60]!r} has no text; add one to FIGURES in docs/build.py"
                )
            file = Path(
                os.path.normpath(site / Path(page.path).parent / node["src"])
            )  # the page's folder may not be there yet
            if file.suffix == ".png":
                node["width"], node["height"] = Image.open(file).size
            box = node.parent if node.parent.name == "picture" else node
            box = box.wrap(soup.new_tag("div", attrs={"class": "figure"}))
            if file.suffix == ".svg" or node["width"] > 640:
                node["class"] = "wide"
                box["tabindex"], box["role"], box["aria-label"] = (
                    "0",
                    "group",
                    "Figure, scrolls sideways",
                )
    for paragraph in soup.find_all("p"):
        if paragraph.find("div"):
            paragraph.name = "div"
    for node in soup.find_all("table"):
        node.attrs = {"class": node.get("class", [])}
        node.wrap(
            soup.new_tag(
                "div",
                attrs={
                    "class": "scroll",
                    "tabindex": "0",
                    "role": "group",
                    "aria-label": "Table, scrolls sideways",
                },
            )
        )
        for head in node.select("thead th"):
            head["scope"] = "col"
            head.attrs.pop("style", None)
            if not head.get_text(strip=True):
                head.name = "td"
                head.attrs = {}
    for node in soup.find_all("pre"):
        node["tabindex"] = "0"
    for number, node in enumerate(soup.find_all("h1")):
        if number:
            node.name = "h2"
    return str(soup)


def build(site: Path) -> list[Page]:
    """The whole site, made beside the old one and put in its place."""
    fresh = site.with_name(f".{site.name}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    pages = list_pages(fresh)
    known = (
        {page.source or page.path: page.path for page in pages}
        | {page.path: page.path for page in pages}
        | {"results": "claims.html", "data/README.md": "data.html"}
    )
    menu = [
        (group, [page for page in pages if page.group == group])
        for group in dict.fromkeys(page.group for page in pages)
    ]
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(DOCS), trim_blocks=True, autoescape=False
    ).get_template("page.html.j2")
    for page in pages:
        body = finish(fresh, page, page.render(), known)
        up, target = os.path.relpath(".", Path(page.path).parent) + "/", fresh / page.path
        target.parent.mkdir(parents=True, exist_ok=True)
        told = {
            "title": page.title or page.short,
            "about": f"{page.title or page.short}: from a reproducible study of BivRec.",
            "path": page.path,
        }
        target.write_text(
            template.render(
                **told, up="" if up == "./" else up, menu=menu, current=page.group, body=body
            ),
            "utf-8",
        )
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
