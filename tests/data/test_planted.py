"""Planted data."""

from bivrec.data.domain import Domain


def test_planted_is_what_its_seed_says():
    first, again, other = Domain("planted").raw, Domain("planted").raw, Domain("planted-other").raw
    assert (first.images == again.images).all() and first.interactions.equals(again.interactions)
    assert not set(first.items["item"]) & set(other.items["item"])
    kinds = first.kinds[first.interactions["item"] - first.items["item"].iloc[0]]
    followed = [len(set(kinds[first.interactions["user"] == user])) for user in range(20)]
    assert 2 <= min(followed) and max(followed) <= 4
