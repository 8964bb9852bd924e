"""Seeds by name."""

import zlib


def derive_seed(seed: int, *names: str) -> int:
    """A random source's own seed, from the run's seed and the source's name: adding a model moves no other's numbers."""
    return zlib.crc32("/".join((str(seed), *names)).encode())
