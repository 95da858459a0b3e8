"""Arrays in files of torch.save are read as torch and NumPy read them; whatever else is refused."""

import collections
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import fkd_oracle as oracle
import numpy as np
import pytest
import torch
from bounded import bounded, bounded_memory

from ffdr.archive.arrays import load_arrays
from ffdr.archive.torch_zip import EntryError, zip_around

load_arrays(oracle.saved([np.zeros(1)]))  # compiles, which is no part of the times below

KINDS = ["f2", "f4", "f8", ">f4", "i1", "i2", "i4", "i8", "u1", "u2", "b1"]


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_numpys(kind, protocol):
    rng = np.random.default_rng(0)
    array = (rng.random((3, 4, 5)) * 100).astype(kind)
    given = [array, array.T, array[:, ::2, 1], array[:0], np.array(7, kind)]
    found = load_arrays(oracle.saved(given, pickle_protocol=protocol))
    for one, other in zip(found, given, strict=True):
        assert one.dtype == other.dtype and np.array_equal(one, other)


@pytest.mark.parametrize("kind", ["half", "float", "double", "int8", "short", "int", "long", "uint8", "bool"])
def test_torchs(kind):
    tensor = (torch.rand(3, 4, 5) * 100).to(getattr(torch, kind))
    given = [tensor, tensor.permute(2, 0, 1), tensor[1:, 2, ::2], tensor[:0], tensor[0, 0, 0]]
    for protocol in (2, 4):
        found = load_arrays(oracle.saved(given, pickle_protocol=protocol))
        for one, other in zip(found, given, strict=True):
            assert np.array_equal(one, other.numpy())
            assert not one.flags.writeable


def body(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


STORAGE = b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu") + b"K\x04tQ"


def tensor(offset=b"K\x00", shape=b"K\x04\x85", strides=b"K\x01\x85", storage=STORAGE):
    arguments = storage + offset + shape + strides + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def array_of(state):
    return b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"tR" + state + b"b"


def state(shape=b"K\x04\x85", kind=b"u1", content=b"C\x04abcd", fortran=b"\x89"):
    return b"(K\x01" + shape + b"cnumpy\ndtype\n" + text(kind) + b"\x85R" + fortran + content + b"t"


def with_storage(pickled, count=4):
    """A file with that pickle and a storage of so many float32."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/data/0", np.arange(count, dtype="<f4").tobytes())
    return file.getvalue()


BIG = b"\x8a\x05" + (1 << 35).to_bytes(5, "little")
HUGE = b"\x8a\xff" + b"\x7f" * 255
BAD = {
    "too many numbers": tensor(shape=b"K\x05\x85"),
    "beyond": tensor(offset=b"K\x01"),
    "negative offset": tensor(offset=b"J\xff\xff\xff\xff"),
    "negative side": tensor(shape=b"J\xff\xff\xff\xff\x85"),
    "negative step": tensor(strides=b"J\xff\xff\xff\xff\x85"),
    "one number everywhere": tensor(shape=BIG + b"\x85", strides=b"K\x00\x85"),
    "large steps": tensor(strides=BIG + b"\x85"),
    "a huge step": tensor(strides=HUGE + b"\x85"),
    "one huge step": tensor(shape=b"K\x01\x85", strides=HUGE + b"\x85"),
    "more steps": tensor(strides=b"K\x01K\x01\x86"),
    "fewer steps": tensor(strides=b")"),
    "no shape": tensor(shape=b"N"),
    "list for a shape": tensor(shape=b"]"),
    "no storage": tensor(storage=b"N"),
    "a text as storage": tensor(storage=text(b"0") + b"Q"),
    "a storage by name": tensor(storage=b"ctorch\nFloatStorage\n"),
    "no such record": tensor(storage=STORAGE.replace(text(b"0"), text(b"7"))),
    "another record": tensor(storage=STORAGE.replace(text(b"0"), text(b"../data.pkl"))),
    "other count": tensor(storage=STORAGE.replace(b"K\x04", b"K\x05")),
    "numpy's as storage": tensor(storage=STORAGE.replace(b"ctorch\nFloatStorage", b"cnumpy\nndarray")),
    "called storage": b"ctorch\nFloatStorage\n)R",
    "called class": b"cnumpy\nndarray\nK\x05\x85R",
    "state of a tensor": tensor() + b"}b",
    "state of hooks": b"ccollections\nOrderedDict\n)R}b",
    "hooks with values": b"ccollections\nOrderedDict\n(K\x01K\x02\x86\x85tR",
    "no state": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"tR",
    "other class": b"cnumpy.core.multiarray\n_reconstruct\n(ctorch\nFloatStorage\nK\x00\x85" + text(b"b") + b"tR",
    "shape first": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x09\x85" + text(b"b") + b"tR",
    "short": array_of(state(shape=b"K\x05\x85")),
    "negative": array_of(state(shape=b"J\xff\xff\xff\xff\x85")),
    "negative twice": array_of(state(shape=b"J\xff\xff\xff\xffJ\xfc\xff\xff\xff\x86")),
    "huge": array_of(state(shape=HUGE + HUGE + b"\x86")),
    "many axes": array_of(state(shape=b"(" + b"K\x01" * 70 + b"t")),
    "true as a side": array_of(state(shape=b"\x88K\x04\x86")),
    "objects": array_of(state(kind=b"O8")),
    "list": array_of(state(content=b"]")),
    "empty state": array_of(b")"),
    "encoded otherwise": b"c_codecs\nencode\n" + text(b"abc") + text(b"rot13") + b"\x86R",
    "encoded number": b"c_codecs\nencode\nK\x05" + text(b"latin1") + b"\x86R",
    "not in latin-1": b"c_codecs\nencode\n" + text("€".encode()) + text(b"latin1") + b"\x86R",
    "a module's function": b"cnumpy\nfromfile\n" + text(b"/etc/passwd") + b"\x85R",
    "torch's load": b"ctorch\nload\n" + text(b"x") + b"\x85R",
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_array_is_refused(name):
    with bounded(seconds=5), bounded_memory(megabytes=100), pytest.raises(EntryError) as error:
        load_arrays(with_storage(body(b"]", BAD[name], b"a")))
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_the_crafted_files_are_nearly_good():
    good = with_storage(body(b"](", tensor(), array_of(state()), b"e"))
    found = load_arrays(good)
    assert found[0].tolist() == [0, 1, 2, 3] and found[1].tolist() == list(b"abcd")


def test_bytes_are_not_said_again_and_again():
    """A megabyte of text that is encoded a thousand times."""
    again = b"c_codecs\nencode\nq\x01" + text(b"x" * (1 << 20)) + b"q\x02" + text(b"latin1") + b"q\x03\x86R"
    again += b"h\x01h\x02h\x03\x86R" * 1000
    with bounded(seconds=5), bounded_memory(megabytes=100), pytest.raises(EntryError, match="again and again"):
        load_arrays(zip_around(b"\x80\x02(" + again + b"t."))


def test_a_file_has_few_tensors():
    with bounded(seconds=5), pytest.raises(EntryError, match="more than 8 tensors"):
        load_arrays(oracle.saved([torch.zeros(1) for _ in range(5000)]))


def test_other_objects_are_refused():
    for value in (torch.nn.Linear(2, 2), collections.Counter("a"), torch.zeros(2).to_sparse(), np.ma.zeros(3)):
        with pytest.raises(EntryError):
            load_arrays(oracle.saved([value]))
    for value, name in ((5, "int"), ("a", "str"), (None, "nonetype"), ({}, "dict")):
        with pytest.raises(EntryError, match=f"it holds a {name}, not a list of arrays"):
            load_arrays(zip_around(pickle.dumps(value, 2)))


FUZZ = """
import random, sys
from ffdr.archive.arrays import load_arrays
from ffdr.archive.torch_zip import EntryError, pickle_in, zip_around
import fkd_oracle as oracle
import numpy as np, torch, resource, io, zipfile
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
rng = random.Random(int(sys.argv[1]))
numbers = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
sources = [[numbers, numbers.T.copy(), numbers > 3], oracle.as_tensors([numbers, numbers > 3])]
read = 0
for trial in range(500):
    whole = oracle.saved(sources[trial % 2])
    data = bytearray(pickle_in(whole) if trial % 3 else whole)
    for _ in range(rng.choice([1, 1, 2, 8])):
        kind, at = rng.random(), rng.randrange(len(data))
        if kind < 0.6:
            data[at] = rng.randrange(256)
        elif kind < 0.8:
            del data[at : at + rng.randrange(1, 60)]
        else:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
        if not data:
            break
    if trial % 3:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive, zipfile.ZipFile(io.BytesIO(whole)) as old:
            for name in old.namelist():
                archive.writestr(name, bytes(data) if name.endswith("data.pkl") else old.read(name))
        data = file.getvalue()
    try:
        sum(float(np.asarray(array, np.float64).sum()) for array in load_arrays(bytes(data)))
        read += 1
    except EntryError:
        pass
print("survived", read)
"""


def test_mutated_files_are_read_or_refused():
    """In another process, because the answer to a stray access is a signal."""
    there = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(oracle.__file__).parent), *sys.path])}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FUZZ, "1"], capture_output=True, text=True, env=there)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 0 < int(done.stdout.removeprefix("survived ")) < 500  # some are good still, some are not
