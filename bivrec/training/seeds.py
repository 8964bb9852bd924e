"""Seeds by name."""

import zlib


def derive_seed(seed: int, *names: str) -> int:
    """The seed of one random source, from the run's seed and the source's name: adding a model
    leaves the seeds of the others as they are.
    """
    return zlib.crc32("/".join((str(seed), *names)).encode())
