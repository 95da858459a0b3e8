"""A kilobyte that describes more than a machine can hold is refused at once, whoever would have walked through it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from bounded import bounded, bounded_memory

from ffdr.archive.container import EntryError
from ffdr.archive.unpickle import loads

loads(pickle.dumps(1, 4))  # compiles, which is no part of the times below

LEVELS, REFERENCES = 26, 10


def nested(make, levels=LEVELS):
    """``levels`` values, each of ten references to the one before."""
    value = "x"
    for _ in range(levels):
        value = make([value] * REFERENCES)
    return value


def outside_in():
    """Each list is filled after it was named ten times in the one before."""
    code = b"\x80\x04(" + b"".join(b"]q" + bytes([n]) for n in range(LEVELS)) + b"t"
    for n in range(LEVELS - 1):
        code += b"h" + bytes([n]) + b"(" + (b"h" + bytes([n + 1])) * REFERENCES + b"e"
    return code + b"t."


def inside_out_of_open():
    """Named while it is open, and filled when those that hold it are done."""
    return b"\x80\x04]q\x00(]q\x01(" + b"h\x00" * REFERENCES + b"e" + b"h\x01" * REFERENCES + b"e."


def colliding(count=1000):
    """Keys of one hash: 2^61 - 1 times so much."""
    keys = b"".join(b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(1, count))
    return b"\x80\x04}(" + keys + b"u."


BOMBS = {
    "lists": pickle.dumps(nested(list), 4),
    "lists, protocol 2": pickle.dumps(nested(list), 2),
    "tuples": pickle.dumps(nested(tuple), 4),
    "dictionaries": pickle.dumps(nested(lambda parts: {str(n): part for n, part in enumerate(parts)}), 4),
    "mixed": pickle.dumps(nested(lambda parts: [tuple(parts)], 13), 4),
    "key": b"\x80\x04}" + pickle.dumps(nested(tuple), 4)[2:-1] + b"Ns.",
    "keys": b"\x80\x04}(" + pickle.dumps(nested(tuple), 4)[2:-1] + b"Nu.",
    "outside in": outside_in(),
    "open": inside_out_of_open(),
    "cycle": b"\x80\x04]q\x00(" + b"h\x00" * 10 + b"e.",
    "cycle of dictionaries": b"\x80\x04}q\x00(\x8c\x01ah\x00u.",
    "depth": b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "keys of one hash": colliding(),
    "empty lists": b"\x80\x04](" + b"]" * 100_000 + b"e.",
    "empty dictionaries": b"\x80\x04(" + b"}" * 100_000 + b"t.",
    "one long list, often": b"\x80\x04(](" + b"N" * 50_000 + b"e\x94" + b"h\x00" * 5_000 + b"t.",
    "arguments of a call": b"\x80\x04cnumpy\ndtype\n" + pickle.dumps(nested(tuple), 4)[2:-1] + b"\x85R.",
    "state": b"\x80\x04cnumpy\ndtype\n\x8c\x02i8\x85R" + pickle.dumps(nested(tuple), 4)[2:-1] + b"b.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_no_pickle_says_far_more_than_its_size(name):
    with bounded(seconds=5), bounded_memory(megabytes=100), pytest.raises(EntryError, match="far more than its size"):
        loads(BOMBS[name])


def test_what_honest_pickles_share_is_read():
    """Texts, constants, NumPy's types: named again, as pickle does it."""
    none, box = (None, None), (-1, 0, 0, 0)
    value = (3, [{"params": {"a": none, "b": none, "c": [box, box]}, "prob": ([0.5], [3])} for _ in range(500)])
    assert loads(pickle.dumps(value, 4)) == value
    assert loads(pickle.dumps(value, 2)) == value
    flags = [np.bool_(n % 2) for n in range(1000)]
    assert loads(pickle.dumps(flags, 4)) == [bool(n % 2) for n in range(1000)]
    assert loads(pickle.dumps({1: "a", 300: "b", "c": 2}, 4)) == {1: "a", 300: "b", "c": 2}
