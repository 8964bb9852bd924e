"""Wrong settings: each gets one clear sentence."""

import pytest


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
        "is not a tree of settings (Circular reference detected)",
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
        'features.text_encoder: "../bert" is refused',
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
    "a profile that is a path": (
        settings("  default: {}", "  default: {}\n  ../x: {}"),
        "profiles.../x",
    ),
    "a model that is a path": (
        settings(
            "  popularity: {family",
            "  ../x: {family: popularity, settings: {}}\n  popularity: {family",
        ),
        "models.../x",
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
        "file:///etc/passwd",
    ),
    "a list": (
        whole("- a\n- b\n"),
        "params.yaml has no settings; restore it with `git checkout params.yaml`",
    ),
    "UTF-16": (
        whole("machine: {}".encode("utf-16")),
        "params.yaml cannot be read (UnicodeDecodeError); restore it",
    ),
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
