"""The figures of every stage that params.yaml names."""

from functools import cache

import pandas as pd

from bivrec.data.domain import Domain
from bivrec.experiment.cost import cost_runs
from bivrec.experiment.runs import RUN_COLUMNS, rank_models, to_runs
from bivrec.experiment.training import train_models
from bivrec.outputs import LEFT_OUT, read_output
from bivrec.settings import load_settings, profile_folder, training_profile
from bivrec.studies.diagnosis import diagnose


@cache
def _planted(profile: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    domain = Domain("planted", profile=profile)
    trained = train_models(domain, ["bivrec", "sasrec", "popularity"])
    ranks = rank_models(domain, trained)
    return ranks, pd.concat(
        [to_runs(domain, "training", ranks), cost_runs(domain, trained, "training")],
        ignore_index=True,
    )


def stage_labels(profile: str) -> list[tuple[str, str]]:
    """Every stage of the profile with each of its labels, a dataset or a pair of them, but those that were left out."""
    studies = load_settings(profile=profile).studies
    pairs = [f"{pair.source}-{pair.target}" for pair in studies.transfers.values()]
    every = [
        (stage, label)
        for stage in studies.stages
        for label in (pairs if stage == "07_cross_dataset" else studies.datasets)
    ]
    return [
        named
        for named in every
        if not (profile_folder("build", profile).joinpath(*named) / LEFT_OUT).is_file()
    ]


def gather_runs(whole_study: bool, profile: str = "default") -> pd.DataFrame:
    """Every figure of every stage that params.yaml names, one a row; planted alone is trained here."""
    if not whole_study:
        return _planted(profile)[1]
    studies, runs = (
        load_settings(profile=profile).studies,
        [read_output(stage, label, "runs.csv", profile) for stage, label in stage_labels(profile)],
    )
    if (trained := training_profile(profile, studies)) != profile:
        runs += [read_output("03_training", name, "runs.csv", trained) for name in studies.datasets]
    runs = pd.concat(runs, ignore_index=True)
    return runs.sort_values(RUN_COLUMNS[:-1], kind="stable").reset_index(drop=True)


def gather_ranks(whole_study: bool, profile: str = "default") -> pd.DataFrame:
    """The test ranks of the whole field (column dataset)."""
    if not whole_study:
        return _planted(profile)[0].assign(dataset="planted")
    studies = load_settings(profile=profile).studies
    trained = training_profile(profile, studies)
    return pd.concat(
        [
            read_output("03_training", name, "ranks.csv", trained).assign(dataset=name)
            for name in studies.datasets
        ],
        ignore_index=True,
    )


def gather_claims(whole_study: bool, profile: str = "default") -> pd.DataFrame:
    """The tests of the claims that the studies made themselves (04 to 07)."""
    if not whole_study:
        return pd.DataFrame()
    labels = [
        (stage, label)
        for stage, label in stage_labels(profile)
        if stage not in ("03_training", "10_protocols")
    ]
    return pd.concat(
        [read_output(stage, label, "claims.csv", profile) for stage, label in labels]
        or [pd.DataFrame()],
        ignore_index=True,
    )


def gather_diagnostics(whole_study: bool, profile: str = "default") -> pd.DataFrame:
    """What 06 diagnosed of the trained models (columns dataset, model, diagnostic, view, value)."""
    if not whole_study:
        domain = Domain("planted", profile=profile)
        return diagnose(domain, train_models(domain, ["bivrec"])[0]).assign(
            dataset="planted", model="bivrec"
        )
    labels = [label for stage, label in stage_labels(profile) if stage == "06_cold_start"]
    return pd.concat(
        [read_output("06_cold_start", label, "diagnostics.csv", profile) for label in labels]
        or [pd.DataFrame()],
        ignore_index=True,
    )
