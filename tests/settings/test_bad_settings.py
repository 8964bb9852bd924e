"""Wrong settings: each gets one clear sentence."""

import json

import pytest

from bivrec.errors import SettingsError
from bivrec.settings import check_params, load_settings, vary


def settings(old: str, new: str):
    return lambda project: project.replace("params.yaml", old, new) or ["check"]


def whole(content: str | bytes):
    return lambda project: project.write("params.yaml", content) and ["check"]


def extra(text: str):
    """A line above all others of params.yaml."""
    return lambda project: (
        project.replace("params.yaml", "\nmachine:", f"\n{text}\nmachine:") or ["check"]
    )


SCALES = "  scales: [1, 2, 4]"


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)
)


SETTINGS = {
    "F larger than K": (
        settings("  num_nearest: 2", "  num_nearest: 9"),
        "model: num_nearest (F) is 9, more than num_interests (K), 4",
    ),
    "L smaller than the largest scale": (
        settings("  max_length: 48", "  max_length: 2"),
        "scale 4 must divide the largest scale, 4, and max_length, 2",
    ),
    "a scale of zero": (
        settings(SCALES, "  scales: [0, 2, 4]"),
        "model.scales.0: 0 is refused: Input should be greater than or equal to 1",
    ),
    "no scale": (settings(SCALES, "  scales: []"), "model.scales: [] is refused"),
    "a key twice": (
        settings("\nstudies:\n", "\nstudies: {}\nstudies:\n"),
        'is not YAML: found duplicate key "studies"',
    ),
    "a tab": (
        settings("  dim: 64", "\tdim: 64"),
        "is not YAML: found character '\\t' that cannot start any token",
    ),
    "a tag that would run code": (
        extra("x: !!python/object/apply:os.system [touch run]"),
        "is not YAML: could not determine a constructor for the tag",
    ),
    "an alias of itself": (
        extra("x: &x [*x]"),
        "is not a tree of settings (Circular reference detected); correct it (`git diff",
    ),
    "aliases that fill the memory": (
        extra(BOMB),
        "is not a tree of settings (its aliases expand to more than 1,048,576 characters",
    ),
    "nesting without end": (
        extra("x: " + "[" * 3000 + "]" * 3000),
        "is not a tree of settings (it is nested too deeply)",
    ),
    "a key that is a list": (
        extra("? [a, b]\n: 1"),
        "YAML reads the key in brackets as seq, not as text",
    ),
    "a date for a number": (
        settings("  dim: 64", "  dim: 2001-01-01"),
        'model.dim: "2001-01-01" is refused',
    ),
    "an infinite rate": (
        settings("  learning_rate: 0.008", "  learning_rate: .inf"),
        "training.learning_rate: Infinity is refused",
    ),
    "a share that is no number": (
        settings("  history_share: 0.8", "  history_share: .nan"),
        "split.history_share: NaN is refused",
    ),
    "a negative seed": (
        settings("  seeds: [0, 1, 2, 3, 4]", "  seeds: [-1]"),
        "studies.seeds.0: -1 is refused",
    ),
    "no seed": (
        settings("  seeds: [0, 1, 2, 3, 4]", "  seeds: []"),
        "studies.seeds: [] is refused",
    ),
    "two folds": (settings("  num_folds: 5", "  num_folds: 2"), "split.num_folds: 2 is refused"),
    "all of a history": (
        settings("  history_share: 0.8", "  history_share: 1.0"),
        "split.history_share: 1.0 is refused",
    ),
    "half a row": (
        settings("  batch_size: 16", "  batch_size: 1.5"),
        "training.batch_size: 1.5 is refused",
    ),
    "everything dropped out": (
        settings("  dropout: 0.2", "  dropout: 1.0"),
        "model.dropout: 1.0 is refused",
    ),
    "a modality that is none": (
        settings("  modality: both", "  modality: video"),
        'features.modality: "video" is refused',
    ),
    "an encoder that is none": (
        settings("  text_encoder: minilm", "  text_encoder: ../bert"),
        'features.text_encoder: "../bert" is refused: a text encoder is minilm, hashing',
    ),
    "a level above one": (
        settings("    swap: [0.0, 0.1, 0.3, 0.5]", "    swap: [0.0, 1.5]"),
        "swap has the level 1.5, which is a share and at most 1",
    ),
    "levels that fall": (
        settings("    swap: [0.0, 0.1, 0.3, 0.5]", "    swap: [0.0, 0.5, 0.1]"),
        "they must increase from 0, the clean level",
    ),
    "fewer than no workers": (
        settings("  num_workers: 0 ", "  num_workers: -1 "),
        "machine.num_workers: -1 is refused",
    ),
    "an empty value": (settings("  dim: 64", "  dim:"), "model.dim: null is refused"),
    "a folder that is a path": (
        settings('"folder": "mine"', '"folder": "raw/mine"'),
        'datasets.mine.plain.folder: "raw/mine" is refused: name a folder of raw/ without path or '
        "spaces, such as mine",
    ),
    "a folder with a slash": (
        settings('"folder": "mine"', '"folder": "mine/"'),
        '"mine/" is refused: name a folder of raw/ without path or spaces',
    ),
    "a folder with a space": (
        settings('"folder": "mine"', '"folder": "my data"'),
        '"my data" is refused: name a folder of raw/ without path or spaces',
    ),
    "an absolute folder": (
        settings('"folder": "mine"', '"folder": "/data/mine"'),
        '"/data/mine" is refused: name a folder of raw/ without path or spaces',
    ),
    "a folder outside the source's section": (
        settings('"plain": {"folder": "mine"}', '"folder": "mine"'),
        "datasets.mine.folder: unknown key; it belongs to the source: write plain: {folder: ...}",
    ),
    "a key of another section": (
        settings('"plain": {"folder": "mine"}', '"plain": {"image_folder": "mine"}'),
        "datasets.mine.plain.image_folder: unknown key; did you mean 'folder'?",
    ),
    "a key that no section is like": (
        settings('"plain": {"folder": "mine"}', '"kernel": 1'),
        "datasets.mine.kernel: unknown key; remove it",
    ),
    "settings by section": (
        settings('"settings": {', '"settings": {"model": {"max_length": 20}, '),
        "datasets.mine.settings: model is a section; write its keys with dots, as "
        "model.max_length: 20",
    ),
    "settings of a model by section": (
        settings("{family: gru4rec, settings: {", "{family: gru4rec, settings: {model: {dim: 8}, "),
        "models.gru4rec on movies-classic: model is a section; write its keys with dots, as "
        "model.dim: 8",
    ),
    "a bound that is none": (
        settings("{low: 0.0, high: 0.8}", "{low: 0.0, hihg: 0.8}"),
        "tuning.space.every.model.dropout.hihg: unknown key; did you mean 'high'?",
    ),
    "a source that is a list": (
        settings('"source": "plain"', '"source": ["plain"], "folder": "mine"'),
        "datasets.mine.folder: unknown key; remove it",
    ),
    "a profile by section": (
        settings("  default: {}", "  default: {}\n  mine: {training: {num_steps: 5}}"),
        "profiles.mine: training is a section; write its keys with dots, as training.num_steps: 5",
    ),
    "a section that is a number": (
        settings('"settings": {', '"settings": {"split": 3, '),
        'split is a section; write its keys with dots, as split.protocol: "by_user"',
    ),
    "a profile that is a path": (
        settings("  default: {}", "  default: {}\n  ../x: {}"),
        "profiles.../x",
    ),
    "a model that is a path": (
        settings(
            "  popularity: {family",
            "  ../x: {family: popularity, settings: {}}\n  popularity: {family",
        ),
        'models.../x: "../x" is refused: a name starts with a lower-case letter or digit',
    ),
    "a category that is a path": (
        settings("category: Baby}", "category: ../../x}"),
        'datasets.baby.amazon.category: "../../x" is refused',
    ),
    "a download by file://": (
        settings(
            'url: "https://files.grouplens.org/datasets/movielens/ml-1m.zip"',
            'url: "file:///etc/passwd"',
        ),
        '"file:///etc/passwd" is refused: an address starts with http:// or https://',
    ),
    "a list": (
        whole("- a\n- b\n"),
        "params.yaml has no settings; restore it with `git checkout params.yaml`",
    ),
    "UTF-16": (whole("machine: {}".encode("utf-16")), "params.yaml is not UTF-8; save it as UTF-8"),
    "a zero byte": (whole("machine:\0 1"), "params.yaml is not YAML"),
    "a folder": (
        lambda project: (
            ((project.root / "params.yaml").unlink(), (project.root / "params.yaml").mkdir())
            and ["check"]
        ),
        "cannot be read (IsADirectoryError)",
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings(project, refuses, case):
    arrange, told = SETTINGS[case]
    sentence = refuses(arrange(project))
    assert told in sentence and "params.yaml" in sentence
    assert not (project.root / "run").exists()


TWICE = {
    "studies.seeds": [0, 0],
    "studies.retrained_seeds": [1, 1],
    "studies.models": ["bivrec", "pure-id", "bivrec"],
    "studies.datasets": ["planted", "planted"],
    "studies.ablations": ["text-only", "text-only"],
    "studies.grids": ["losses", "losses"],
    "studies.protocols": ["by_user", "by_user"],
    "studies.stages": ["05_noise", "05_noise"],
    "tuning.models": ["sasrec", "sasrec"],
    "tuning.seeds": [2, 2],
    "ensembles.pure-sum": ["pure-id", "pure-id"],
    "model.views": ["id", "id"],
    "model.scales": [1, 1],
    "grids.losses": {"cross_view.fine_weight": [0.0, 0.0]},
    "noise.trained": {"replace": [0.3, 0.3]},
    "transfer.shares": [0.1, 0.1],
    "transfer.starts": ["from scratch", "from scratch"],
}


@pytest.mark.parametrize("key", TWICE)
def test_a_list_names_nothing_twice(key):
    value = TWICE[key]
    listed = next(iter(value.values())) if isinstance(value, dict) else value
    with pytest.raises(SettingsError) as caught:
        load_settings(changes={key: value})
    shown = f"{json.dumps(listed)} is refused: it names {listed[0]} twice; remove one"
    assert shown in str(caught.value) and key in str(caught.value)


@pytest.mark.parametrize(
    "key",
    ["split.ties", "features.num_components", "features.text_encoder", "machine.num_workers"]
    + ["studies.seeds", "noise.levels", "cold_start.item_counts", "transfer.num_steps"],
)
@pytest.mark.parametrize("part", ["models", "ablations", "grids", "tuning"])
def test_a_variant_changes_nothing_that_only_its_dataset_reads(part, key):
    variant = {"family": "bivrec", "settings": {key: 1}}
    changes = {
        "models": {"models.bivrec": variant},
        "ablations": {"ablations": {"mine": variant}},
        "grids": {"grids": {"mine": {key: [1]}}},
        "tuning": {"tuning.space": {"every": {key: {"low": 1, "high": 2}}}},
    }[part]
    with pytest.raises(SettingsError) as caught:
        load_settings(changes=changes)
    told = f"{key} belongs to the dataset; set it in datasets.<name>.settings"
    assert str(caught.value).endswith(told) and f"{part}." in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("features.modality", "text"),
        ("features.shuffled", True),
        ("machine.kernels", "reference"),
        ("studies.primary_metric", "recall@20"),
    ],
)
def test_a_variant_changes_what_its_training_reads(key, value):
    variant = {"family": "bivrec", "settings": {key: value}}
    settings = load_settings(changes={"ablations": {"mine": variant}})
    section, name = key.split(".")
    varied = vary(settings, settings.ablations["mine"])
    assert getattr(getattr(varied, section), name) == value


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("sasrec", "cross_view.fine_weight", 0.5),
        ("comirec-sa", "model.num_interests", 8),
        ("comirec-sa", "model.readout", "hard"),
        ("comirec-sa", "baseline.num_layers", 1),
        ("tedrec", "baseline.inputs", "fused"),
        ("bivrec", "baseline.num_layers", 3),
        ("gru4rec", "itemknn.decay", 0.5),
        ("itemknn", "training.learning_rate", 0.01),
        ("popularity", "model.dim", 8),
    ],
)
def test_a_variant_changes_nothing_that_its_family_does_not_read(project, family, key, value):
    entry = f"mine: {{family: {family}, settings: {{{key}: {value}}}}}"
    project.replace("params.yaml", "\nmodels:", f"\nmodels:\n  {entry}\n#")
    with pytest.raises(SettingsError) as caught:
        check_params()
    problem = f"a model of the family {family} does not read {key}; remove it"
    assert str(caught.value) == f"params.yaml: models.mine: {problem}"


def test_a_grid_changes_nothing_that_bivrec_does_not_read(project, refuses):
    project.replace("params.yaml", "\ngrids:", "\ngrids:\n  mine: {baseline.num_heads: [1, 2]}\n#")
    project.replace("params.yaml", "  grids: []  ", "  grids: [mine]  ")
    assert "a model of the family bivrec does not read baseline.num_heads" in refuses(check_params)


def test_a_length_that_a_grid_does_not_divide(project, refuses):
    """Only the selected grids are checked: `full` selects `scales` for the datasets of studies."""
    project.replace("params.yaml", '"settings": {', '"settings": {"model.max_length": 20, ')
    assert check_params().datasets["mine"].settings["model.max_length"] == 20
    project.replace(
        "params.yaml", "  datasets: [movies-classic, movies-modern]", "  datasets: [mine]"
    )
    assert refuses(check_params) == (
        'params.yaml with the settings of grids.scales {"model.scales": [1, 4, 8]} on mine: model: '
        "scale 8 must divide the largest scale, 8, and max_length, 20; change one of them (mine "
        "may have grids.scales of its own in datasets.mine.settings)"
    )
    scales = '"grids.scales": {"model.scales": [[1], [1, 2, 4]]}, "model.max_length": 20'
    project.replace("params.yaml", '"model.max_length": 20', scales)
    check_params()


def test_a_wrong_root_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("BIVREC_ROOT", str(tmp_path))
    with pytest.raises(SettingsError) as caught:
        check_params()
    problem = f"BIVREC_ROOT is {str(tmp_path)!r}, where there is no params.yaml"
    assert str(caught.value) == f"{problem}; set it to the project's folder, or unset it"


def test_a_file_that_may_not_be_read(monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.read_text", refuse)
    with pytest.raises(SettingsError, match="params.yaml cannot be read .*; make it readable$"):
        check_params()
