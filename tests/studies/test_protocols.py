"""One domain under several protocols."""

from bivrec.studies.protocols import protocol_domain


def test_protocols_split_one_domain_three_ways(planted):
    assert protocol_domain(planted, "by_user") is planted
    for name in ("leave_one_out", "by_time"):
        other = protocol_domain(planted, name)
        assert other.settings.split.protocol == name
        assert other.features(0)["text"][0].shape == planted.features(0)["text"][0].shape
