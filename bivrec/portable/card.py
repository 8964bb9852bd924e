"""The model card of an exported model."""

from io import StringIO

from ruamel.yaml import YAML

from bivrec.outputs import read_csv
from bivrec.portable.recommender import Recommender
from bivrec.settings import profile_folder

SHOWN = ("ndcg@20", "recall@20", "hr@20")
TEXT = """
# {model} on {dataset}

{model} of the study bivrec, a reconstruction of [BivRec](https://arxiv.org/abs/2402.17334),
trained on {dataset} ({count:,} items) with seed {seed}. It reads the newest {length} items of a
history and scores the catalogue.

```python
from bivrec import load, recommend

model = load("folder")  # this one, by its path, or hf://user/name
recommend(model, {example})  # item ids, oldest first
```

`items.parquet` lists the items, `bivrec.json` the settings; weights and features are safetensors.

## Figures

{figures}

## Use

For research and teaching. The terms of the dataset extend to weights that are trained on it:
{licence}. A model can reveal what a user of its training data has seen.
"""


def write_card(recommender: Recommender) -> str:
    """The card in the form of the Hugging Face Hub: a YAML header, then Markdown.

    The figures are those of this model's run in results/runs.csv, if it is there."""
    trained, domain = recommender.trained, recommender.domain
    figures = read_figures(recommender)
    header = {
        "library_name": "bivrec",
        "license": "other",
        "license_name": f"terms-of-{recommender.dataset}",
        "tags": ["bivrec", "sequential-recommendation", "multimodal"],
    }
    if figures:
        header["model-index"] = [model_index(recommender, figures)]
    yaml, text = YAML(typ="rt"), StringIO()
    yaml.dump(header, text)
    lines = ["| view | metric | test users |", "| --- | --- | --- |"]
    lines += [f"| {view} | {metric} | {value:.4f} |" for view, metric, value in figures]
    body = TEXT.format(
        model=trained.name,
        dataset=recommender.dataset,
        count=len(recommender.items),
        seed=trained.seed,
        length=recommender.max_length,
        example=recommender.ids[:3],
        figures="\n".join(lines) if figures else "This run is not in results/runs.csv.",
        licence=(domain and domain.dataset.licence) or "see its README",
    )
    return f"---\n{text.getvalue()}---\n{body}"


def read_figures(recommender: Recommender) -> list[tuple[str, str, float]]:
    """View, metric and value of a model's run on its test users; empty without results."""
    domain, trained = recommender.domain, recommender.trained
    path = domain and profile_folder("results", domain.profile) / "runs.csv"
    if not (path and path.is_file()):
        return []
    runs = read_csv(path)
    run = (runs["dataset"] == recommender.dataset) & (runs["study"] == "training")
    run &= (runs["model"] == trained.name) & (runs["seed"] == trained.seed)
    run &= (runs["split"] == "test") & runs["metric"].isin(SHOWN)
    return [*runs.loc[run, ["view", "metric", "value"]].itertuples(index=False, name=None)]


def model_index(recommender: Recommender, figures: list[tuple[str, str, float]]) -> dict:
    """The figures as the Hub reads them."""
    name = recommender.dataset
    metrics = [
        {"type": metric, "name": f"{metric}, view {view}", "value": value}
        for view, metric, value in figures
    ]
    result = {
        "task": {"type": "other", "name": "sequential recommendation"},
        "dataset": {"type": name, "name": name, "split": "test"},
        "metrics": metrics,
    }
    return {"name": f"{recommender.trained.name} on {name}", "results": [result]}
