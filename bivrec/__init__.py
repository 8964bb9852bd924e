"""BivRec (arXiv 2402.17334), reconstructed: multimodal sequential recommendation in two views of one history.

Read the files in this order; each imports only from those above it. `from bivrec import load, recommend` asks a trained model."""

READING_ORDER = (
    "settings", "results",
    "sequences", "sources", "fetch", "planted", "features", "domains",
    "processes", "recommendation", "embedding", "decomposition", "cross_view", "model", "baselines",
    "evaluation", "training", "field", "studies", "report", "figures", "study_figures", "pipeline", "explore", "explorer",
)  # fmt: skip


def __getattr__(name: str):
    """`load` and `recommend`, imported when first asked for, so that the package itself loads at once."""
    if name in ("load", "recommend"):
        from bivrec import explore

        return getattr(explore, name)
    raise AttributeError(f"module 'bivrec' has no attribute {name!r}; see READING_ORDER for its files")
