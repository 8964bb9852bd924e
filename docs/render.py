"""Markdown and notebooks as HTML."""

import ast
import html
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import mistune
import nbformat
from common import DOCS
from latex2mathml.converter import convert
from mistune.plugins.table import render_table_cell
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound
from ruamel.yaml import YAML

FIGURES = YAML(typ="safe").load((DOCS / "figures.yaml").read_text("utf-8"))


SIGNS = {  # which latex2mathml leaves as they are, for example after \big
    r"\{": "{", r"\}": "}", r"\lVert": "‖", r"\rVert": "‖", r"\lfloor": "⌊", r"\rfloor": "⌋", r"\arg": "arg",
}  # fmt: skip


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"<[^>]*>", "", text).lower()).strip("-")


def script_capital(letter: str) -> str:
    """A script capital as a Unicode letter, which needs no font for mathvariant."""
    try:
        return unicodedata.lookup(f"SCRIPT CAPITAL {letter}")
    except KeyError:
        return unicodedata.lookup(f"MATHEMATICAL SCRIPT CAPITAL {letter}")


def render_math(source: str, display: str = "inline") -> str:
    """A formula as MathML; a long one in a box that scrolls."""
    script = r'<mi mathvariant="script">([A-Z])</mi>'
    formula = convert(source.strip(), display=display)
    formula = re.sub(
        r">(\\[a-zA-Z{}]+)<", lambda match: f">{SIGNS.get(match[1], match[1])}<", formula
    )
    formula = re.sub(script, lambda match: f"<mi>{script_capital(match[1])}</mi>", formula)
    if display != "block" and len(source) <= 40:
        return formula
    tag, name = ("div", "scroll") if display == "block" else ("span", "mathbox")
    attributes = 'tabindex="0" role="group" aria-label="Formula, scrolls sideways"'
    return f'<{tag} class="{name}" {attributes}>{formula}</{tag}>'


def render_code(code: str, language: str = "python") -> str:
    try:
        return highlight(code, get_lexer_by_name(language), HtmlFormatter())
    except ClassNotFound:
        return f"<pre>{html.escape(code)}</pre>"


class Renderer(mistune.HTMLRenderer):
    """Headings with anchors, formulas as MathML, highlighted code."""

    def heading(self, text: str, level: int, **attrs) -> str:
        return f'<h{level} id="{slug(text)}">{text}</h{level}>\n'

    def table_cell(self, text: str, **attrs) -> str:
        """In a table the bar of a code is written with a backslash, which is not part of it."""
        return render_table_cell(self, text.replace(r"\|", "|"), **attrs)

    def inline_math(self, text: str) -> str:
        return render_math(html.unescape(text))

    def block_math(self, text: str) -> str:
        return render_math(html.unescape(text), "block")

    def block_code(self, code: str, info: str | None = None) -> str:
        return render_code(code, info or "text")


markdown = mistune.create_markdown(
    renderer=Renderer(escape=False), plugins=["table", "strikethrough", "math"]
)


def render_file(path: Path, file: Path) -> str:
    """A Markdown file."""
    return markdown(path.read_text("utf-8"))


def render_notebook(
    path: Path, where: str, file: Path, change: Callable[[NotebookNode], NotebookNode] | None = None
) -> str:
    """A notebook, changed or not, with its outputs; its figures become files of the page alone."""
    notebook = nbformat.read(path, 4)
    notebook = change(notebook) if change else notebook
    describe_figures(notebook, path.stem, where)
    body, figures = export(notebook, file.stem)
    for name, content in figures.items():
        (file.parent / name).parent.mkdir(parents=True, exist_ok=True)
        (file.parent / name).write_bytes(content)
    return body


def export(notebook: NotebookNode, name: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as HTML, and its figures by their paths, in a folder of this name."""
    notebook.cells = [cell for cell in notebook.cells if not only_imports(cell)]
    exporter = HTMLExporter(template_name="basic", filters={"markdown2html": markdown})
    extract = "nbconvert.preprocessors.ExtractOutputPreprocessor"
    exporter.register_preprocessor(extract, enabled=True)
    names = {"unique_key": name, "output_files_dir": name}
    body, resources = exporter.from_notebook_node(notebook, names)
    return body, resources["outputs"]


def describe_figures(notebook: NotebookNode, heading: str, where: str) -> None:
    """Gives each figure its alternative text."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            titles = re.findall(r"(?m)^#+ *(.*)$", cell.source)
            heading = titles[0] if titles else heading
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                text = f"{figure_text(cell.source, heading)} ({where})"
                output.metadata = {"image/png": {"alt": text}}


def figure_text(source: str, heading: str) -> str:
    """What a cell's figure shows: by the name of its file or of its drawing function."""
    names = [*re.findall(r"[\"']([\w-]+)\.png[\"']", source), *re.findall(r"\bdraw_\w+", source)]
    known = [FIGURES[name] for name in names if name in FIGURES]
    return known[0] if known else f"Figure under the heading “{heading}”"


def only_imports(cell: NotebookNode) -> bool:
    """Whether a code cell only imports or sets the plot theme."""
    if cell.cell_type != "code":
        return False
    try:
        statements = ast.parse(cell.source).body
    except SyntaxError:
        return False
    return all(
        isinstance(statement, ast.Import | ast.ImportFrom) or "set_theme" in ast.unparse(statement)
        for statement in statements
    )
