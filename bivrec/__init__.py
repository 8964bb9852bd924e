"""A reconstruction of BivRec (arXiv 2402.17334), multimodal sequential recommendation in two views.

`from bivrec import load, recommend` gives recommendations of a trained model.
"""

# in reading order: a room imports only from rooms before it
ROOMS = tuple(
    "errors settings outputs data model kernels baselines evaluation training experiment studies "
    "plots pipeline explore".split()
)


def __getattr__(name: str):
    """`load` and `recommend`, imported on first use, so that `import bivrec` itself is instant."""
    if name in ("load", "recommend"):
        from bivrec.explore import api

        return getattr(api, name)
    raise AttributeError(f"module 'bivrec' has no attribute {name!r}")
