"""JupyterLab and Voila in a real browser: every notebook by Run All, and the explorer by clicks."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = [
    path.stem
    for path in sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
]
PATIENCE = 300  # seconds for a notebook


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answer(url: str):
    with urllib.request.urlopen(url, timeout=10) as found:
        return found.read()


def serve(command: list[str], folder: Path, url: str, log: Path, **environment: str):
    """A server of its own, waited for; ended by its own process."""
    with open(log, "w") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=os.environ | environment,
            stdout=file,
            stderr=file,
        )
    for _ in range(120):
        try:
            answer(url)
            return server
        except OSError:
            assert server.poll() is None, log.read_text()[-2000:]
            time.sleep(1)
    server.terminate()
    raise AssertionError(f"{command[0]} did not start: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def lab(root, tmp_path_factory):
    """JupyterLab upon a copy of the notebooks, so that nothing is saved into them."""
    folder, port = tmp_path_factory.mktemp("lab"), free_port()
    shutil.copytree(root / "notebooks", folder / "notebooks")
    shutil.copy(root / "README.md", folder)
    shutil.copytree(root / "docs", folder / "docs")
    settings = folder / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    news = folder / "settings" / "@jupyterlab" / "apputils-extension"
    news.mkdir()
    (news / "notification.jupyterlab-settings").write_text(
        '{"fetchNews": "false", "checkForUpdates": false}'
    )
    url = f"http://127.0.0.1:{port}"
    flags = [
        f"--port={port}",
        "--no-browser",
        "--allow-root",
        "--IdentityProvider.token=",
        "--ServerApp.disable_check_xsrf=True",
        "--LabApp.default_url=/lab/tree/README.md",
    ]
    places = {
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "JUPYTER_CONFIG_PATH": str(root / "docs" / "jupyter"),
    }
    server = serve(["jupyterlab", *flags], folder, f"{url}/api", folder / "lab.log", **places)
    yield folder, url
    server.terminate()
    server.wait(30)


def idle(url: str) -> bool:
    kernels = json.loads(answer(f"{url}/api/kernels"))
    return bool(kernels) and all(kernel["execution_state"] == "idle" for kernel in kernels)


def run_all(page, url: str, path: Path, patience: int = PATIENCE):
    """Run All from the menu; the notebook as it was saved once the kernel had rested."""
    page.goto(f"{url}/lab/tree/notebooks/{path.name}?reset")
    page.locator(".jp-NotebookPanel .jp-Notebook").wait_for(timeout=60_000)
    started = time.monotonic()
    while not idle(url):  # the menu asks for a kernel where it comes before it
        assert time.monotonic() < started + 60, "no kernel started"
        page.wait_for_timeout(500)
    page.wait_for_timeout(3000)
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").click()
    page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click()
    started = time.monotonic()
    while time.monotonic() < started + patience:
        page.wait_for_timeout(2000)
        if idle(url):
            page.keyboard.press("Control+s")
            page.wait_for_timeout(1500)
            notebook = nbformat.read(path, 4)
            if idle(url) and all(
                cell.execution_count for cell in notebook.cells if cell.cell_type == "code"
            ):
                return notebook
    raise AssertionError(f"{path.name} did not come to its end")


def test_jupyterlab_opens_at_the_overview(chromium, lab, shots):
    page = chromium.new_page(viewport={"width": 1440, "height": 900})
    page.goto(lab[1])
    page.locator(".jp-MarkdownViewer h1", has_text="bivrec").wait_for(timeout=60_000)
    page.wait_for_timeout(1000)
    page.screenshot(path=shots / "lab.png")
    page.close()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_run_all(chromium, lab, name):
    """Cleared first, so that what is saved is what ran."""
    folder, url = lab
    path = folder / "notebooks" / f"{name}.ipynb"
    bare = nbformat.read(path, 4)
    for cell in bare.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(bare, path)
    page = chromium.new_page(viewport={"width": 1440, "height": 900})
    notebook = run_all(page, url, path)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error" and output.get("name") != "stderr", (
                f"{name}: {cell.source}\n{output}"
            )
    page.close()
    for kernel in json.loads(answer(f"{url}/api/sessions")):
        urllib.request.urlopen(
            urllib.request.Request(f"{url}/api/sessions/{kernel['id']}", method="DELETE"),
            timeout=30,
        )


def choose(page, label: str, option: int) -> None:
    page.locator(".widget-dropdown", has=page.locator("label", has_text=label)).locator(
        "select"
    ).first.select_option(index=option)


def changed(page, before: str) -> float:
    """Seconds until the lists differ from what they were."""
    started = time.monotonic()
    page.wait_for_function(
        "before => document.querySelectorAll('.bv')[0].innerText !== before",
        arg=before,
        timeout=10_000,
    )
    return time.monotonic() - started


def click_through(page) -> dict[str, float]:
    """The explorer's widgets, each used once; what the lists took to change."""
    lists = page.locator(".bv").first
    lists.get_by_text("both views").wait_for(timeout=120_000)
    took = {}

    def step(name, act):
        before = lists.inner_text()
        act()
        took[name] = changed(page, before)

    step("user", lambda: choose(page, "user", 3))
    own = lists.inner_text()

    def add():
        page.locator("input[list]").first.fill("Mountain 7 (2001) · 1106")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Add", exact=True).click()

    step("add", add)
    step("remove", lambda: page.get_by_role("button", name="Remove", exact=True).click())
    assert lists.inner_text() == own
    step("noise", lambda: choose(page, "noise", 1))
    step("no noise", lambda: choose(page, "noise", 0))
    patches = page.locator(".bv").nth(1)
    before = patches.inner_html()
    page.get_by_role("button", name="multimodal view").or_(
        page.locator("button.widget-toggle-button", has_text="multimodal view")
    ).first.click()
    page.wait_for_function(
        "before => document.querySelectorAll('.bv')[1].innerHTML !== before",
        arg=before,
        timeout=10_000,
    )
    return took


def test_explorer_in_jupyterlab(chromium, lab, shots):
    folder, url = lab
    page = chromium.new_page(viewport={"width": 1440, "height": 2400})
    run_all(page, url, folder / "notebooks" / "explore.ipynb")
    took = click_through(page)
    page.locator(".bv").first.scroll_into_view_if_needed()
    page.screenshot(path=shots / "explorer-lab.png")
    page.close()
    assert max(took.values()) < 1, took


@pytest.fixture(scope="module")
def voila(root, tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("voila"), free_port()
    url, notebook = f"http://127.0.0.1:{port}", str(root / "notebooks" / "explore.ipynb")
    command = ["voila", notebook, f"--port={port}", "--no-browser", "--template=bivrec"]
    server = serve(
        command,
        folder,
        f"{url}/voila/static/voila.js",
        folder / "log",
        JUPYTER_PATH=str(root / "docs" / "jupyter"),
    )
    yield url
    server.terminate()
    server.wait(30)


@pytest.mark.parametrize("width", [375, 1440])
def test_explorer_in_voila(chromium, voila, shots, width):
    """The page asks for nothing from elsewhere, every click is answered within a second, and
    nothing runs off its side."""
    page, told = chromium.new_page(viewport={"width": width, "height": 1600}), []
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on(
        "request",
        lambda asked: (
            told.append(asked.url)
            if "://127.0.0.1" not in asked.url and asked.url.startswith("http")
            else None
        ),
    )
    page.goto(voila, timeout=PATIENCE * 1000)
    took = click_through(page)
    page.screenshot(path=shots / f"explorer-{width}.png", full_page=True)
    (shots / f"seconds-{width}.json").write_text(json.dumps(took, indent=1))
    wide = page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    page.close()
    assert max(took.values()) < 1, took
    assert not told and wide[0] <= wide[1]
