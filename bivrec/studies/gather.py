"""Gathers what every stage of a profile saved.

`whole_study=False` trains three models on planted instead, for a report without the pipeline."""

from functools import cache

import pandas as pd

from bivrec.data.domain import Domain
from bivrec.errors import SettingsError
from bivrec.experiment.cost import cost_runs
from bivrec.experiment.runs import RUN_COLUMNS, mark_tuning_users, rank_and_list, to_runs
from bivrec.experiment.training import train_models
from bivrec.outputs import LEFT_OUT, read_output
from bivrec.settings import load_settings, profile_folder, project_root
from bivrec.studies.diagnosis import diagnose


@cache
def _planted(profile: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Test ranks, runs and lists of three models on planted."""
    domain = Domain("planted", profile=profile)
    trained = train_models(domain, ["bivrec", "sasrec", "popularity"])
    ranks, lists = rank_and_list(domain, trained)
    ranks = mark_tuning_users(domain, ranks)
    runs = [to_runs(domain, "training", ranks), cost_runs(domain, trained, "training")]
    return ranks, pd.concat(runs, ignore_index=True), lists


def _read_all(profile: str, name: str, labels: list[tuple[str, str]]) -> pd.DataFrame:
    tables = [read_output(stage, label, name, profile) for stage, label in labels]
    filled = [table for table in tables if len(table)]
    return pd.concat(filled or [pd.DataFrame()], ignore_index=True)


def stage_labels(profile: str) -> list[tuple[str, str]]:
    """Each stage of the profile with each of its labels: a dataset, or `source-target` of a
    transfer. Omits those that the dataset does not allow."""
    studies = load_settings(profile=profile).studies
    pairs = [f"{pair.source}-{pair.target}" for pair in studies.transfers.values()]
    build = profile_folder("build", profile)
    return [
        (stage, label)
        for stage in studies.stages
        for label in (pairs if stage == "07_cross_dataset" else studies.datasets)
        if not (build / stage / label / LEFT_OUT).is_file()
    ]


def gather_runs(whole_study: bool, profile: str = "default") -> pd.DataFrame:
    """Every figure of every stage in the columns of runs.csv, sorted."""
    if not whole_study:
        return _planted(profile)[1]
    runs = _read_all(profile, "runs.csv", stage_labels(profile))
    if not len(runs):
        where = profile_folder("build", profile).relative_to(project_root())
        raise SettingsError(f"every study is left out; {where}/*/*/{LEFT_OUT} say why")
    return runs.sort_values(RUN_COLUMNS[:-1], kind="stable", ignore_index=True)


def gather_ranks(whole_study: bool, profile: str = "default") -> pd.DataFrame:
    """The test ranks of every model of 03 (column dataset)."""
    if not whole_study:
        return _planted(profile)[0].assign(dataset="planted")
    tables = [
        read_output("03_training", name, "ranks.csv", profile).assign(dataset=name)
        for name in load_settings(profile=profile).studies.datasets
    ]
    return pd.concat(tables, ignore_index=True)


def gather_lists(whole_study: bool, profile: str = "default") -> pd.DataFrame:
    """The test users' lists of every model of 03 and 04 (column dataset)."""
    if not whole_study:
        return _planted(profile)[2].assign(dataset="planted")
    labels = [("03_training", name) for name in load_settings(profile=profile).studies.datasets]
    labels += [pair for pair in stage_labels(profile) if pair[0] == "04_ablations"]
    tables = [
        read_output(stage, name, "lists.parquet", profile).assign(dataset=name)
        for stage, name in labels
    ]
    keys = ["dataset", "model", "view", "seed", "user", "rank"]
    return pd.concat(tables).drop_duplicates(keys, ignore_index=True)


def gather_variants(whole_study: bool, profile: str = "default") -> pd.DataFrame:
    """The test ranks of further models that the report compares BivRec with:
    BivRec under the controls of 03, and variants of 04 (column dataset)."""
    if not whole_study:
        return pd.DataFrame()
    stages = "03_training", "04_ablations"
    labels = [pair for pair in stage_labels(profile) if pair[0] in stages]
    return _read_all(profile, "variants.csv", labels)


def gather_claims(whole_study: bool, profile: str = "default") -> pd.DataFrame:
    """The tests of claims that the notebooks 03 to 07 made."""
    if not whole_study:
        return pd.DataFrame()
    labels = [pair for pair in stage_labels(profile) if pair[0] != "10_protocols"]
    return _read_all(profile, "claims.csv", labels)


def gather_diagnostics(whole_study: bool, profile: str = "default") -> pd.DataFrame:
    """What 06 diagnosed (columns dataset, model, diagnostic, view, value)."""
    if not whole_study:
        domain = Domain("planted", profile=profile)
        table = diagnose(domain, train_models(domain, ["bivrec"])[0])
        return table.assign(dataset="planted", model="bivrec")
    labels = [(stage, label) for stage, label in stage_labels(profile) if stage == "06_cold_start"]
    return _read_all(profile, "diagnostics.csv", labels)
