"""A reconstruction of BivRec (arXiv 2402.17334), multimodal sequential recommendation in two views.

`from bivrec import load, recommend` gives recommendations of a trained model; `recommend_many`
serves many users, and `export` takes the model along.
"""

# in reading order: a package imports only from those before it
PACKAGES = tuple(
    "errors settings outputs data model kernels baselines evaluation training experiment studies "
    "portable plots pipeline explore".split()
)


def __getattr__(name: str):
    """The public functions, imported on first use, so that `import bivrec` itself is instant."""
    if name in ("load", "export", "recommend", "recommend_many"):
        from bivrec.portable import folder, lists

        return getattr(lists if name.startswith("recommend") else folder, name)
    raise AttributeError(f"module 'bivrec' has no attribute {name!r}")
