"""Plain data is read; whatever else a pickle or a zip may hold is refused, and nothing of it happens."""

import os
import pickle
import random
import resource
import struct
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import archive_oracle as oracle
import numpy as np
import pytest
import torch

from ffdr.archive.torch_zip import EntryError, pickle_in, zip_around
from ffdr.archive.unpickle import loads
from ffdr.beton.read import ImageBeton
from ffdr.config.files import ImportOptions
from ffdr.mldr.importing import import_archives
from ffdr.util.errors import UserError

PLAIN = (5, [{"a": [None, True, False, -3, 300, 70000, 2**40, 0.5, "text", b"bytes", (1, (2, (3,))), [], {}, ()]}] * 2)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_plain_data_is_read(protocol):
    value = PLAIN if protocol > 2 else {"a": [1, (2.5, "x"), None], "b": {"c": 2**70}}
    assert loads(pickle.dumps(value, protocol)) == value
    assert pickle_in(oracle.saved(value, protocol)) == pickle_in(zip_around(pickle_in(oracle.saved(value, protocol))))


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numpy_scalars_become_numbers(module):
    scalars = [np.int64(-7), np.int32(5), np.uint8(200), np.float32(0.5), np.float64(1e300), np.bool_(True)]
    data = pickle.dumps(scalars, 4)
    name = b"numpy._core.multiarray" if b"numpy._core" in data else b"numpy.core.multiarray"
    assert name in data
    frame = 3 + 8
    body = data[frame:].replace(bytes([len(name)]) + name, bytes([len(module)]) + module)
    found = loads(b"\x80\x04" + body)
    assert found == [-7, 5, 200, 0.5, 1e300, True]
    assert [type(value) for value in found] == [int, int, int, float, float, bool]


class Runs:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attacks(target):
    """Pickles that would create ``target``, or exhaust the machine."""
    touch = f"touch {target}"
    text = str(target).encode()
    code = f"open({str(target)!r}, 'w')"
    calls = (os.system, touch), (open, str(target), "w"), (eval, code), (exec, code), (subprocess.getoutput, touch)
    yield from (pickle.dumps(Runs(*call), protocol) for protocol in (0, 1, 2, 4, 5) for call in calls)
    yield b"cos\nsystem\n(S'" + touch.encode() + b"'\ntR."
    yield b"\x80\x04\x8c\x02io\x8c\x04open\x93\x8c" + bytes([len(text)]) + text + b"\x8c\x01w\x86R."
    yield b"\x80\x02cnumpy\nfromfile\nX" + struct.pack("<I", len(text)) + text + b"\x85R."
    yield b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R."
    yield b"(i__main__\nx\n."
    yield pickle.dumps([np.zeros(3)], 4)
    yield pickle.dumps(np.datetime64("2020-01-01"), 4)
    yield b"\x80\x02X\x01\x00\x00\x00xQ."  # a tensor's persistent id
    yield b"\x80\x02P0\n."
    # Attributes of the stand-ins.
    yield b"\x80\x02cnumpy.core.multiarray\nscalar\n}X\x03\x00\x00\x00abcK\x01sb."
    yield b"\x80\x02cnumpy\ndtype\n}X\x03\x00\x00\x00abcK\x01sb."
    yield b"\x80\x02cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R."
    # Memory: a memo of 2**31 places, long texts and bytes that are not there, framed lengths, extension codes.
    yield b"\x80\x04]r\xff\xff\xff\x7f."
    yield b"\x80\x04]r\x00\x00\x00\x40."
    yield b"\x80\x04X\xff\xff\xff\xff."
    yield b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f."
    yield b"\x80\x05\x96\xff\xff\xff\xff\x0f\x00\x00\x00."
    yield b"\x80\x04\x8b\xff\xff\xff\x7f."
    yield b"\x80\x02\x82\x01."
    # A stack overflow in C: hashing a tuple 100,000 deep.
    yield b"\x80\x04}N" + b"\x85" * 100_000 + b"Ns."
    yield b"\x80\x04}(N" + b"N\x86\x94" * 100_000 + b"Nu."
    yield b"\x80\x04}" + b"(" * 50_000 + b"t" * 50_000 + b"Ns."
    yield b"\x80\x04h\x05."
    yield b"\x80\x04."
    yield b"\x80\x04t."
    yield b"\x80\x04(."
    yield b"\x80\x04a."


def test_hostile_pickles_are_refused(tmp_path):
    target = tmp_path / "made"
    count = 0
    for data in attacks(target):
        with pytest.raises(EntryError) as error:
            loads(data)
        assert "\n" not in str(error.value)
        assert not target.exists(), data
        count += 1
    assert count > 50


def test_the_attacks_are_real(tmp_path):
    """The plain unpickler falls for them."""
    target = tmp_path / "made"
    pickle.loads(pickle.dumps(Runs(os.system, f"touch {target}"), 4))
    assert target.exists()


def test_what_was_refused_is_named():
    with pytest.raises(EntryError, match=r"names .*system, which plain data has no need of"):
        loads(pickle.dumps(Runs(os.system, "true"), 4))
    with pytest.raises(EntryError, match=r"pickle"):
        loads(pickle_in(oracle.saved(torch.zeros(3), 2)))


def test_no_hostile_archive_is_run(digits, tmp_path):
    """Through the verb: as the config, and as an entry."""
    images = ImageBeton.open(digits)
    entries = oracle.make_entries(oracle.CROP_FLIP, [(32, 32)] * len(images))
    good = oracle.files_of(oracle.config_of(oracle.CROP_FLIP), entries)
    target = tmp_path / "made"
    for number, name in enumerate(("config.pth.tar", "0.pth.tar", "57.pth.tar")):
        files = good | {name: oracle.saved(Runs(os.system, f"touch {target}"))}
        folder = oracle.write_folder(tmp_path / f"archive{number}", files)
        options = ImportOptions(archive=(str(folder),), images=str(digits), out=str(tmp_path / "out.beton"))
        with pytest.raises(UserError, match=f"{name}: it names .*system"):
            import_archives(options, progress=False)
        assert not target.exists()
        assert not (tmp_path / "out.beton").exists()


FUZZ = """
import random, sys
from ffdr.archive.torch_zip import EntryError, pickle_in, zip_around
from ffdr.archive.unpickle import loads
import archive_oracle as oracle
import resource
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
rng = random.Random(int(sys.argv[1]))
good = oracle.saved(oracle.make_entries(oracle.POLICIES["+M*+R*"], [(50, 40)] * 3)[1])
plain = pickle_in(good)
read = 0
for trial in range(3000):
    source = plain if trial % 2 else good
    data = bytearray(source)
    for _ in range(rng.choice([1, 1, 2, 8])):
        kind = rng.random()
        at = rng.randrange(len(data))
        if kind < 0.6:
            data[at] = rng.randrange(256)
        elif kind < 0.8:
            del data[at : at + rng.randrange(1, 60)]
        else:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
        if not data:
            break
    try:
        loads(bytes(data)) if trial % 2 else loads(pickle_in(bytes(data)))
        read += 1
    except EntryError:
        pass
print("survived", read)
"""


def test_mutated_files_are_read_or_refused():
    """In another process, because the answer to a stray access is a signal."""
    there = os.environ | {"PYTHONPATH": str(Path(oracle.__file__).parent)}
    done = subprocess.run([sys.executable, "-c", FUZZ, "1"], capture_output=True, text=True, timeout=300, env=there)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("survived")


def zipped(*records, method=zipfile.ZIP_STORED):
    file = BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in records:
            archive.writestr(name, data)
    return file.getvalue()


def test_other_zips_are_refused():
    data = pickle.dumps((0, []), 4)
    assert pickle_in(zipped(("x/data.pkl", data))) == data
    bomb = zipped(("x/data.pkl", bytes(50 << 20)), method=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 1 << 20
    good = zip_around(data)
    wrong = bytearray(good)
    wrong[good.index(data) + 3] ^= 1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for file, text in (
        (bomb, "compressed"),
        (zipped(("x/data.pkl", data), ("y/data.pkl", data)), "holds 2 files data.pkl"),
        (zipped(("x/other", data)), "holds 0 files data.pkl"),
        (bytes(wrong), "checksum"),
        (good[:-1], "not a zip"),
        (good[30:], "."),
        (b"", "not a zip"),
        (b"\0" * 5000, "not a zip"),
        (data, "not a zip"),
    ):
        with pytest.raises(EntryError, match=text):
            pickle_in(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 << 10  # KiB
    for cut in random.Random(0).sample(range(len(good)), 60):
        with pytest.raises(EntryError):
            pickle_in(good[:cut])
