"""What BivRec is compared with, under the same protocol, features and budget."""

from bivrec.baselines.counting import ItemNeighbours, Popularity
from bivrec.baselines.experts import TedRec, UniSRec
from bivrec.baselines.multimodal import DIFSR, FDSA, MMMLP, NOVA, MMSRec
from bivrec.baselines.sequential import ComiRecSA, GRU4Rec, SASRec, SummedSASRec

__all__ = [
    "DIFSR",
    "FDSA",
    "MMMLP",
    "MMSRec",
    "NOVA",
    "ComiRecSA",
    "GRU4Rec",
    "ItemNeighbours",
    "Popularity",
    "SASRec",
    "SummedSASRec",
    "TedRec",
    "UniSRec",
]
