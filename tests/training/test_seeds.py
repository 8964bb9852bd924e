"""Every random source has a seed of its own."""

import ast
import itertools
import re

from bivrec.settings import load_settings
from bivrec.training.seeds import derive_seed


def test_a_seed_depends_on_its_names_only():
    assert derive_seed(0, "bivrec", "weights") == derive_seed(0, "bivrec", "weights")


def test_no_two_sources_share_a_seed():
    settings = load_settings()
    models = [*settings.models, *settings.ablations]
    sources = {("batches",), ("adapt",), ("adapt", "noise"), ("adapt", "batches")}
    sources |= {(model, source) for model in models for source in ("weights", "noise")}
    named = list(itertools.product(range(50), sources))
    assert len({derive_seed(seed, *names) for seed, names in named}) == len(named) > 3000


def test_no_random_source_is_without_a_seed(root):
    """The module draws from generators that were given a seed, or from PyTorch's after a seed was
    set.
    """
    seeded = {"np.random.Generator", "np.random.PCG64", "np.random.SFC64"}
    for path in sorted((root / "bivrec").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
                assert not names & {"random", "secrets", "uuid"}, path.name
            if isinstance(node, ast.Call):
                name, has_seed = ast.unparse(node.func), bool(node.args)
                allowed = has_seed and name in seeded
                random = re.fullmatch(r"(np\.)?random\.\w+", name)
                assert allowed or not random, f"{path.name}: {ast.unparse(node)}"
