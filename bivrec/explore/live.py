"""Learning curves while models train: functions for BIVREC_ON_EVALUATE."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from bivrec.errors import SettingsError
from bivrec.settings import project_root

_logs: dict[Path, Any] = {}
_curves: defaultdict[tuple[str, str, int], dict[int, dict[str, float]]] = defaultdict(dict)


def show(dataset: str, model: str, seed: int, step: int, metrics: dict[str, float]) -> None:
    """Draws the curves of a training below the notebook's cell, in place of the last drawing; a
    training that starts again clears its curves."""
    from IPython.display import clear_output, display

    curves = _curves[dataset, model, seed]
    if step <= max(curves, default=-1):
        curves.clear()
    curves[step] = metrics
    columns = ["loss", *(name for name in metrics if name.endswith("/ndcg@20"))]
    axes = pd.DataFrame(curves).T[columns].plot(subplots=[("loss",), tuple(columns[1:])])
    axes[0].set_title(f"{model} on {dataset}, seed {seed}")
    axes[-1].set_xlabel("step")
    clear_output(wait=True)
    display(axes[0].figure)
    plt.close(axes[0].figure)


def to_dvclive(dataset: str, model: str, seed: int, step: int, metrics: dict[str, float]) -> None:
    """Logs to `dvclive/<dataset>/<model>/<seed>`, which DVC and the extension of VS Code read; a
    training that starts again clears its folder. Raises SettingsError without dvclive."""
    folder = project_root() / "dvclive" / dataset / model / str(seed)
    if folder not in _logs or _logs[folder].step >= step:
        _logs[folder] = _open(folder, step)
    log = _logs[folder]
    log.step = step
    for name, value in metrics.items():
        log.log_metric(name, value)
    log.sync()


def _open(folder: Path, step: int) -> Any:
    """A log that continues the file of a killed training, up to the step where it resumes."""
    try:
        from dvclive import Live
    except ImportError:
        problem = "BIVREC_ON_EVALUATE asks for dvclive, which is not installed"
        raise SettingsError(f"{problem}; `pip install --editable '.[live]'` installs it") from None
    last, path = step, folder / "metrics.json"
    if path.is_file():
        last = json.loads(path.read_text("utf-8")).get("step", step)
    options = {"save_dvc_exp": False, "dvcyaml": str(folder / "dvc.yaml")}
    return Live(str(folder), resume=last < step, **options)
