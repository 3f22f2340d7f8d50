import numpy as np
import pytest

from minilearner.vision.fingerprints import _find_near


def every_pair(hashes):
    """Compares each hash with each other."""
    bits = np.unpackbits(hashes, axis=1)
    pairs = [(i, j) for i in range(len(bits)) for j in range(i + 1, len(bits)) if (bits[i] != bits[j]).sum() <= 7]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


@pytest.mark.parametrize("n", [2, 3, 240])
def test_near_hashes_are_those_that_a_comparison_of_all_finds(n):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (n, 64), dtype=np.uint8)
    for i in range(n // 2, n):  # copies with up to 10 bits turned
        turned = rng.choice(64, rng.integers(0, 11), replace=False)
        bits[i] = bits[i - n // 2]
        bits[i, turned] ^= 1
    hashes = np.packbits(bits, axis=1)
    np.testing.assert_array_equal(_find_near(hashes), every_pair(hashes))


def test_many_equal_hashes_are_compared_in_parts(monkeypatch):
    monkeypatch.setattr("minilearner.vision.fingerprints._MOST_AT_ONCE", 50)
    assert len(_find_near(np.zeros((60, 8), dtype=np.uint8))) == 60 * 59 // 2
