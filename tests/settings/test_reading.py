"""params.yaml is read strictly; what is wrong is said in one sentence."""

import re

import pytest

from bivrec.errors import SettingsError
from bivrec.settings import check_params, load_settings, vary


@pytest.fixture
def params(root, tmp_path):
    """A copy of params.yaml in which one line is replaced."""

    def edited(old: str, new: str):
        text = (root / "params.yaml").read_text()
        assert old in text, old
        path = tmp_path / "params.yaml"
        path.write_text(text.replace(old, new, 1))
        return path

    return edited


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "  num_interests: 4",
            "  num_interest: 4",
            "model.num_interest: unknown key; did you mean 'num_interests'",
        ),
        ("  num_interests: 4", "  num_interests: two", 'model.num_interests: "two" is refused'),
        ("  num_interests: 4", "  num_interests: true", "model.num_interests: true is refused"),
        ("  num_interests: 4", "  num_interests: 0", "model.num_interests: 0 is refused"),
        ("  num_interests: 4", "", "num_interests: the key is missing"),
        (
            "  num_nearest: 2",
            "  num_nearest: 9",
            "num_nearest (F) is 9, more than num_interests (K), 4",
        ),
        ("  scales: [1, 2, 4]", "  scales: [1, 2, 3]", "scale 2 must divide the largest scale, 3"),
        (
            "first_year: 1800",
            "first_year: 2001",
            "datasets.movies-classic.movielens: first_year 2001 is after last_year 1999; lower",
        ),
        ("  num_heads: 2", "  num_heads: 3", "dim 64 is not a multiple of num_heads 3"),
        ("  kernel: rbf ", "  kernel: gauss ", "model.kernel"),
        ("  learning_rate: ", "  learning_rate: -", "training.learning_rate"),
        ("  learning_rate: ", "  learning_rate: .nan #", "training.learning_rate"),
        ("  history_share: 0.8", "  history_share: 1.5", "split.history_share: 1.5 is refused"),
        (
            "datasets: [movies-classic,",
            "datasets: [movies-clasic,",
            "there is no dataset 'movies-clasic'",
        ),
        ("source: movies-classic,", "source: nowhere,", "there is no dataset 'nowhere'"),
        ("  movies-modern:  ", "  ../movies:  ", "../movies"),
        ("    source: planted", "    source: amazn", "source"),
        (
            "settings: {model.scales: [1]}",
            "settings: {model.scale: [1]}",
            "there is no setting 'model.scale'; did you mean 'model.scales'",
        ),
        (
            "settings: {model.scales: [1]}",
            "settings: {model.num_nearest: 5}",
            "num_nearest (F) is 5",
        ),
        ("    replace: [0.0, 0.1,", "    replace: 3 #[", "noise.levels.replace: 3 is refused"),
        (
            "  ablations: [without-cross-view-learning,",
            "  ablations: [without-cross-view,",
            "studies.ablations: there is no 'without-cross-view' under ablations; did you mean",
        ),
        (
            "  grids: []",
            "  grids: [interest]",
            "studies.grids: there is no 'interest' under grids; did you mean 'interests'",
        ),
        (
            "model.num_nearest: [1, 2]}",
            "model.num_nearest: [1, 3]}",
            'grids.interests {"model.num_interests": 2, "model.num_nearest": 3} on movies-classic: '
            "model: num_nearest (F) is 3, more than num_interests (K), 2",
        ),
        (
            "  scales: {model.scales: [[1],",
            "  scales: {model.scales: [[1], [1, 5],",
            'params.yaml with the settings of grids.scales {"model.scales": [1, 5]} on '
            "movies-classic: model: scale 5 must divide the largest scale, 5, and max_length, 48",
        ),
        (
            "model.dropout: {low: 0.0, high: 0.8}",
            "model.dropout: {low: 0.0, high: 1.4}",
            '"model.dropout": 1.4} of sasrec on movies-classic: model.dropout: 1.4 is refused',
        ),
        (
            "on validation users\n  models: [sasrec,",
            "\n  models: [sasrek,",
            "there is no model 'sasrek'",
        ),
        (
            "  models: [popularity,",
            "  models: [popularty,",
            "studies.models: there is no 'popularty' under models; did you mean 'popularity'",
        ),
        (
            "  num_heads: 2                 # of",
            "  num_heads: 3                 # of",
            "model.dim 64 is not a multiple of baseline.num_heads, 3",
        ),
        (
            "  retrained_seeds: [0, 1, 2, 3, 4]",
            "  retrained_seeds: [5]",
            "retrained_seeds [5] must be among seeds",
        ),
        ("  primary_metric: ndcg@20", "  primary_metric: ndgc@20", "studies.primary_metric"),
        ("\nstudies:", "\nstudies: [", "params.yaml, line"),
        ("\nstudies:", "\nextra: 1\nstudies:", "extra: unknown key"),
        ("  default: {}", "  default: {model.dim: 32}", "profiles must hold `default: {}`"),
        ("  default: {}", "", "profiles must hold `default: {}`"),
        (
            "    training.num_steps: 400",
            "    training.num_step: 1",
            "params.yaml: profiles.full: there is no setting 'training.num_step'; did you mean",
        ),
        (
            "    training.num_steps: 400",
            "    training.num_steps: no",
            "params.yaml with profiles.full: training.num_steps",
        ),
        ("    training.num_steps: 400", "    model.num_nearest: 5", "num_nearest (F) is 5"),
        (
            "    training.num_steps: 400",
            "    split.num_folds: 10",
            "profiles.full: movies-classic: datasets, split, features and the folds",
        ),
        (
            "  pure-sum: [pure-id, pure-mm]",
            "  pure-sum: [pure-id, pure-m]",
            "ensembles.pure-sum: pure-m is not among `models`",
        ),
        ("  pure-sum: [", "  bivrec: [", "ensembles.bivrec is also a model; rename the ensemble"),
        ("  hard-readout: {", "  sasrec: {", "ablations.sasrec is also a model; rename the"),
        (
            "  temperature: {model.temperature",
            "  temperature: {model.newest: [all, none], model.temperature",
            "grids.temperature varies 3 settings, and a figure shows two; split it into two grids",
        ),
        ("mean_length: 24, seed: 1}", "mean_length: 24, seed: -1}", "planted.seed"),
        (
            "studies.datasets: [planted]",
            "studies.datasets: [plantd]",
            "there is no dataset 'plantd'",
        ),
        (
            "stages: [03_training, 04_ablations",
            "stages: [03_training, 04_ablation",
            "studies.stages.1",
        ),
    ],
)
def test_a_bad_setting_is_one_clear_sentence(params, old, new, told):
    with pytest.raises(SettingsError, match=re.escape(told)) as caught:
        check_params(params(old, new))
    assert "params.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(path=tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="is not UTF-8; save it as UTF-8"):
        load_settings(path=tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("")
    with pytest.raises(SettingsError, match="has no settings"):
        load_settings(path=tmp_path / "params.yaml")


def test_numbers_are_yaml_1_2(params):
    assert (
        load_settings(
            "movies-classic", path=params("  learning_rate: ", "  learning_rate: 1e-3 #")
        ).training.learning_rate
        == 0.001
    )


def test_a_dataset_changes_its_own_settings_and_the_reader_changes_last():
    assert load_settings("planted").model.dim != load_settings("movies-classic").model.dim
    assert load_settings("planted", {"model.dim": 16}).model.dim == 16
    with pytest.raises(SettingsError, match="did you mean 'model.dim'"):
        load_settings("planted", {"model.dims": 16})


def test_a_profile_stands_between_the_file_and_the_dataset(params):
    keys = (
        "training.num_steps: 480",
        "training.clip_norm: 3.0",
        "studies.seeds: [0, 1, 2, 3, 4, 10, 11]",
    )
    path = params("    training.num_steps: 400", "".join(f"    {key}\n" for key in keys))
    full = {
        name: load_settings(name, path=path, profile="full")
        for name in ("movies-classic", "planted")
    }
    assert {name: settings.training.num_steps for name, settings in full.items()} == {
        "movies-classic": 480,
        "planted": 120,
    }  # the dataset's own
    assert (
        all(settings.training.clip_norm == 3 for settings in full.values())
        and load_settings(path=path).training.clip_norm != 3
    )
    assert (
        load_settings("movies-classic", {"training.num_steps": 7}, path, "full").training.num_steps
        == 7
    )
    check_params(path)  # further seeds of folds whose features there are
    with pytest.raises(
        SettingsError,
        match="^params.yaml: there is no profile 'fool'; known are default, smoke, full$",
    ):
        load_settings(profile="fool")


def test_a_variant_is_a_setting():
    settings = load_settings("planted")
    assert vary(settings, settings.models["pure-id"]).model.views == ("id",)
    assert vary(settings, settings.models["bivrec"]) == settings


def test_a_variant_reads_again_only_the_sections_that_it_changes(monkeypatch):
    settings = load_settings("planted")
    listed = settings.models | settings.ablations
    read = {name: load_settings("planted", v.settings) for name, v in listed.items()}
    monkeypatch.setattr("bivrec.settings.reading._validate", lambda *_: pytest.fail("read it all"))
    assert {name: vary(settings, variant) for name, variant in listed.items()} == read


def test_no_fine_loss_compares_allocations_that_nobody_uses():
    settings = load_settings()
    for name, variant in (settings.models | settings.ablations).items():
        varied = vary(settings, variant)
        if varied.model.pooling == "mean" and varied.model.num_interests > 1:
            assert varied.cross_view.fine_weight == 0, name
