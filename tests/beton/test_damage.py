"""Finding the one changed byte from two checksums."""

import zlib

import numpy as np

from ffdr.beton.damage import SEARCHED, changed_byte, place_of_damage


def test_a_changed_byte_is_found():
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 255, 4096, 30_000):
        for _ in range(20):
            data = bytearray(rng.bytes(size))
            before = zlib.crc32(data)
            position = int(rng.integers(size))
            data[position] ^= int(rng.integers(1, 256))
            assert changed_byte(zlib.crc32(data), before, size) == position


def test_what_is_no_single_byte_is_not_named():
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(100):
        data = rng.bytes(500)
        found += changed_byte(zlib.crc32(data), zlib.crc32(rng.bytes(500)), 500) is not None
    assert found == 0  # expected: 100 × 500 × 255 / 2^32 = 0.003
    assert changed_byte(1, 2, SEARCHED + 1) is None
    assert changed_byte(5, 5, 100) is None


def test_places_are_named():
    data = bytearray(b"abcdefghij" * 10)
    before = zlib.crc32(data)
    parts = [("views", 1000, 60), ("logits", 5000, 40)]
    assert place_of_damage(before ^ 0x00FF0000, before, parts) == "checksum"
    for position, place in ((0, "views (byte 1000 of the file)"), (59, "views (byte 1059 of the file)")):
        data[position] ^= 4
        assert place_of_damage(zlib.crc32(data), before, parts) == place
        data[position] ^= 4
    data[60] ^= 128
    assert place_of_damage(zlib.crc32(data), before, parts) == "logits (byte 5000 of the file)"
    data[0] ^= 1
    assert place_of_damage(zlib.crc32(data), before, parts) == "views or logits"
