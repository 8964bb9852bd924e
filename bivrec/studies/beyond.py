"""Beyond accuracy: how diverse, novel and calibrated lists are, and what they cover."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64, Int64
from numpy import ndarray
from scipy.sparse import csr_array
from sklearn.preprocessing import normalize

from bivrec.data.domain import Domain
from bivrec.evaluation import estimate_groups, estimate_mean, repeat_index, user_metrics

DIVERSITY = ("diversity", "genre_diversity")
VARIANTS = ("shared-newest", "plain-interests")  # BivRec without distinct interests
SMOOTHING = 0.01  # Steck's alpha: the share of the history's genres that is mixed into the list's
DIFFERENCES = "dataset measure theirs mean low high p detectable".split()
ROW = ["dataset", "model", "view", "seed", "fold", "user", "measure", "value"]


class Background(NamedTuple):
    """What the lists of a fold are measured by: each item's bits, features and genres, and the
    items of each test user's history."""

    bits: Float64[ndarray, "catalogue"]
    features: Float[ndarray, "catalogue feature"]
    genres: csr_array  # catalogue genre; a row sums to 1, or to 0 without genres
    histories: csr_array  # case catalogue
    users: pd.Index


def self_information(
    train: Sequence[Int64[ndarray, "_"]], num_items: int
) -> Float64[ndarray, "catalogue"]:
    """Each item's self-information in bits (Zhou et al., 2010): -log2 of the share of training
    users who have it; one more user, who has everything, keeps it finite."""
    counts = np.bincount(np.concatenate(train), minlength=num_items)
    return -np.log2((counts + 1) / (len(train) + 1))


def genre_shares(genres: Sequence[str]) -> csr_array:
    """Each item's genres as equal shares (item genre); separated by commas or bars."""
    words = (
        pd.Series(genres, dtype=str)
        .str.split(r", *|\|", regex=True)
        .explode()
        .replace("", np.nan)
        .dropna()
    )
    column, names = pd.factorize(words)
    shape = len(genres), len(names) + 1  # one more without items, so that there is a genre
    return normalize(incidence(words.index.to_numpy(), column, shape), "l1")


def incidence(
    row: Int64[ndarray, "n"], item: Int64[ndarray, "n"], shape: tuple[int, int]
) -> csr_array:
    """A matrix with a row per list and 1 at its items."""
    return csr_array((np.ones(len(row)), (row, item)), shape=shape)


def mean_of_items(
    lists: csr_array, values: Float64[ndarray, "catalogue"]
) -> Float64[ndarray, "list"]:
    """The mean of a value over the items of each list."""
    return lists @ values / lists.sum(1)


def intra_list_diversity(
    lists: csr_array, vectors: Float[ndarray, "catalogue feature"] | csr_array
) -> Float64[ndarray, "list"]:
    """1 minus the mean cosine of the pairs of a list's items (Smyth and McClave, 2001), of those
    whose vector is not zero; NaN with fewer than two."""
    unit = csr_array(normalize(csr_array(vectors).astype("float64")))
    sums, count = lists @ unit, lists @ np.sign(unit.power(2).sum(1))
    pairs = np.where(count > 1, count * (count - 1), np.nan)
    return 1 - (sums.power(2).sum(1) - count) / pairs


def miscalibration(
    lists: csr_array, histories: csr_array, genres: csr_array
) -> Float64[ndarray, "list"]:
    """The Kullback-Leibler divergence, in bits, of a list's genres from those of its user's history
    (Steck, 2018): 0 where they have the same shares; NaN where either has no genres."""
    p, q = (normalize(items @ genres, "l1").toarray() for items in (histories, lists))
    near = (1 - SMOOTHING) * q + SMOOTHING * p
    bits = p * np.log2(np.divide(p, near, out=np.ones_like(p), where=p > 0))
    return np.where((p.sum(1) > 0) & (q.sum(1) > 0), bits.sum(1), np.nan)


def gini(exposure: Float64[ndarray, "catalogue"]) -> float:
    """Gini coefficient of how often each item is recommended: 0 for equal exposure, near 1 for a
    few items everywhere (Fleder and Hosanagar, 2009)."""
    number = len(exposure)
    weights = 2 * np.arange(1, number + 1) - number - 1
    return float(weights @ np.sort(exposure) / (number * exposure.sum()))


def read_background(domain: Domain, seed: int) -> Background:
    """The background of a seed's fold; features are the reduced ones that models read."""
    fold, num_items = domain.fold(seed), domain.sequences.num_items
    histories = fold.test.histories
    shape = len(histories), num_items
    features = [values.numpy() for values, _ in domain.features(seed).values()]
    return Background(
        self_information(fold.train, num_items),
        np.hstack([np.zeros((num_items, 1)), *features]),
        genre_shares(domain.sequences.catalogue["genres"].tolist()),
        incidence(repeat_index(histories), np.concatenate(histories), shape),
        pd.Index(fold.test.users),
    )


def measure_users(lists: pd.DataFrame, background: Background) -> pd.DataFrame:
    """The measures of one model's lists in one fold: user, measure, value. Coverage (the share of
    the catalogue in any list, Ge et al., 2010) and Gini are of all users together (user -1).

    popularity_lift: how many bits of self-information the history's items have above the list's, on
    average; 1 means twice as popular (Abdollahpouri et al., 2019, in logarithms)."""
    row, users = pd.factorize(lists["user"])
    listed = incidence(row, lists["item"].to_numpy("int64"), (len(users), len(background.bits)))
    histories = background.histories[background.users.get_indexer(users)]
    novelty, own = (mean_of_items(items, background.bits) for items in (listed, histories))
    columns = {
        "diversity": intra_list_diversity(listed, background.features),
        "genre_diversity": intra_list_diversity(listed, background.genres),
        "miscalibration": miscalibration(listed, histories, background.genres),
        "novelty": novelty,
        "popularity_lift": own - novelty,
    }
    exposure = listed.sum(0)
    fold = {"coverage": (exposure > 0).mean(), "gini": gini(exposure)}
    table = pd.concat([pd.DataFrame({"user": users, **columns}), pd.DataFrame(fold, [0])])
    return table.fillna({"user": -1}).melt("user", var_name="measure").dropna(ignore_index=True)


def measure_lists(lists: pd.DataFrame, profile: str = "default") -> pd.DataFrame:
    """The measures of every list (columns ROW), from the lists of 03 and 04 with their dataset."""
    tables = []
    for (name, seed), part in lists.groupby(["dataset", "seed"], sort=False):
        background = read_background(Domain(name, profile=profile), int(seed))
        for (model, view), own in part.groupby(["model", "view"], sort=False):
            run = {"model": model, "view": view, "seed": seed, "fold": own["fold"].iloc[0]}
            tables.append(measure_users(own, background).assign(dataset=name, **run))
    return pd.concat(tables, ignore_index=True).astype({"user": int})[ROW]


def measure_accuracy(ranks: pd.DataFrame, lists: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The accuracy of the models that have both lists and saved ranks, as one more measure."""
    listed = lists[["dataset", "model", "view"]].drop_duplicates()
    users = user_metrics(ranks.merge(listed)).rename(columns={metric: "value"})
    return users.assign(measure=metric)[ROW]


def compare_variants(users: pd.DataFrame) -> pd.DataFrame:
    """BivRec's combined lists minus those of VARIANTS, over the users and trainings that both have:
    a row per dataset, measure and variant, with `estimate_mean` of the users' differences."""
    rows, keys = [], ["dataset", "measure"]
    for key, part in users[users["view"] == "both"].groupby(keys, sort=False):
        for variant in VARIANTS:
            pair = [part[part["model"] == model] for model in ("bivrec", variant)]
            both = pair[0].merge(pair[1], on=["seed", "fold", "user"])
            if len(both):
                both["difference"] = both["value_x"] - both["value_y"]
                found = estimate_mean(both, "difference")._asdict()
                rows.append({**dict(zip(keys, key)), "theirs": variant, **found})
    return pd.DataFrame(rows, columns=DIFFERENCES)


def describe_differences(differences: pd.DataFrame, metric: str) -> str:
    """What `compare_variants` says of diversity and accuracy, a sentence per dataset and
    variant."""
    words, sentences = {"diversity": "diverse", metric: "accurate"}, []
    shown = differences[differences["measure"].isin(words)]
    for (dataset, variant), rows in shown.groupby(["dataset", "theirs"], sort=False):
        found = []
        for row in rows.itertuples():
            word = (
                "more" if row.low > 0 else "less" if row.high < 0 else "not measurably more or less"
            )
            interval = f", {row.low:+.4f} to {row.high:+.4f}" if row.low == row.low else ""
            found.append(f"{word} {words[row.measure]} ({row.measure} {row.mean:+.4f}{interval})")
        sentences.append(f"{dataset}: BivRec's lists are {' and '.join(found)} than {variant}'s.")
    return "\n".join(sentences) or f"No list of {' or of '.join(VARIANTS)} is compared here."


def accuracy_and(table: pd.DataFrame, metric: str, measure: str) -> pd.DataFrame:
    """The estimates of two measures side by side: x and its bounds of `measure`, y of `metric`.
    Models that lack either have no row, as those whose ranks are not saved."""
    keys, parts = ["dataset", "model", "view"], []
    for axis, name in (("x", measure), ("y", metric)):
        names = {"mean": axis, "low": f"{axis}_low", "high": f"{axis}_high"}
        parts.append(table[table["measure"] == name].drop(columns="measure").rename(columns=names))
    return parts[0].merge(parts[1], on=keys)


def estimate_measures(users: pd.DataFrame) -> pd.DataFrame:
    """Each measure's mean and 95 % interval, by dataset, model and view."""
    return estimate_groups(users, "value", ["dataset", "model", "view", "measure"])
