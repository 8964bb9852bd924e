"""BivRec (arXiv 2402.17334), reconstructed: multimodal sequential recommendation in two views of one history.

Read the files in this order; each imports only from those above it."""

READING_ORDER = (
    "settings", "results",
    "sequences", "sources", "fetch", "planted", "features", "domains",
    "recommendation", "embedding", "decomposition", "cross_view", "model", "baselines",
    "evaluation", "training", "field", "studies", "report", "figures", "study_figures", "pipeline",
)  # fmt: skip
