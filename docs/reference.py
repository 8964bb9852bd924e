"""The reference of the package, from its sources."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from common import ROOT
from render import markdown, render_code

from bivrec import PACKAGES

INTRODUCTION = """\
The packages of `bivrec/` in reading order: each imports only from those before it. Shapes are those
of [jaxtyping](https://docs.kidger.site/jaxtyping/).
"""


def list_files(package: str) -> list[Path]:
    """The files of a package: itself, or all in its folder."""
    path = ROOT / "bivrec" / package
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def signature(node: ast.FunctionDef) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({ast.unparse(node.args)}){returns}"


def public(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """The public functions and classes of a module or class."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if node.name == "__init__" or not node.name.startswith("_"):
                yield node


def render_docstring(node: ast.AST) -> str:
    """Its formulas on one line each, since a line that begins with + would begin a list."""
    formula = r"\$[^$`\n]+(\n[^$`\n]+)+\$"
    text = ast.get_docstring(node) or ""
    return markdown(re.sub(formula, lambda match: match[0].replace("\n", " "), text))


def render_symbol(module: str, node: ast.FunctionDef | ast.ClassDef) -> str:
    """A function with its signature, or a class with its documented methods."""
    anchor = f"{module}.{node.name}"
    if isinstance(node, ast.FunctionDef):
        code = render_code(signature(node))
        return f'<h3 id="{anchor}">{node.name}</h3>{code}{render_docstring(node)}'
    methods = [
        render_code(signature(method)) + render_docstring(method)
        for method in public(node.body)
        if isinstance(method, ast.FunctionDef) and ast.get_docstring(method)
    ]
    head = f'<h3 id="{anchor}">class {node.name}</h3>{render_docstring(node)}'
    return head + "\n".join(methods)


def render_module(path: Path) -> str:
    """A file: its docstring and its public symbols; "" if it has neither."""
    tree, name = ast.parse(path.read_text("utf-8")), module_name(path)
    symbols = [render_symbol(name, node) for node in public(tree.body)]
    if not symbols and not ast.get_docstring(tree):
        return ""
    return "\n".join([f'<h2 id="{name}">{name}</h2>{render_docstring(tree)}', *symbols])


def render_reference() -> str:
    """Every public function and class, package by package."""
    modules = [(module_name(path), path) for name in PACKAGES for path in list_files(name)]
    bodies = {name: render_module(path) for name, path in modules}
    links = [
        f'<li><a href="#{name}"><code>{name}</code></a></li>'
        for name, body in bodies.items()
        if body
    ]
    start = f"<h1>Package reference</h1>{markdown(INTRODUCTION)}<ul>{''.join(links)}</ul>"
    return f'{start}<div class="api">{"".join(bodies.values())}</div>'
