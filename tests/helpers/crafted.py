"""Files of weights as a stranger might write them."""

import functools
import io
import json
import os
import pickle
import struct
import time
import zipfile

import pytest
import torch
from safetensors.torch import save

from ffdr.config.learning import ModelOptions
from ffdr.models.build import build_model
from ffdr.util.errors import UserError

NAME, CLASSES, SIDE = "test_resnet", 10, 32


class Payload:
    """A pickle that would run code."""

    def __reduce__(self):
        return (os.mkdir, ("payload",))


def refused(call, *arguments, match=None):
    """The one line of a refusal that comes at once."""
    start = time.monotonic()
    with pytest.raises(UserError, match=match) as error:
        call(*arguments)
    message = str(error.value)
    assert "\n" not in message and message.isprintable() and len(message) < 600
    assert time.monotonic() - start < 15
    return message


@functools.cache
def _state(name):
    torch.manual_seed(0)
    return build_model(ModelOptions(name), CLASSES, SIDE).state_dict()


def weights(name=NAME, **changes):
    """A small model's, with tensors replaced; None leaves one out. ``fc__weight`` stands for ``fc.weight``."""
    state = dict(_state(name))
    state |= {key.replace("__", "."): value for key, value in changes.items()}
    return {key: value for key, value in state.items() if value is not None}


def metadata(**changes):
    """What ``ffdr train`` writes about it, with fields replaced."""
    fields = {"version": 1, "name": NAME, "num_classes": CLASSES, "resolution": SIDE, "mean": [0.3] * 3}
    fields |= {"std": [0.3] * 3, "center": 0.875, "classes": "", "fingerprint": "", "options": []}
    return json.dumps(fields | changes)


def ours(path, text=None, state=None, **changes):
    """A ``model.safetensors``; text: its metadata, if not ``metadata(**changes)``."""
    text = metadata(**changes) if text is None else text
    path.write_bytes(save(weights() if state is None else state, {"ffdr_model": text}))
    return path


def zip_of(path, pickled=None, records=None, state=None, **how):
    """What ``torch.save`` writes of a state, with its pickle or records replaced. how: for ``ZipFile``."""
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(16.0)} if state is None else state, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w", **how) as target:
        for record in source.infolist():
            content = source.read(record)
            if pickled is not None and record.filename.endswith("/data.pkl"):
                content = pickled(content) if callable(pickled) else pickled
            target.writestr(record.filename, content)
        for name, content in (records or {}).items():
            target.writestr(name, content)
    return path


def number(value):
    """The instruction of a pickle that pushes it."""
    return pickle.dumps(value, 2)[2:-1]


def resized(count, size, stride=1):
    """A change of ``zip_of``'s pickle: the storage has ``count`` numbers, the tensor (``size``,) of them."""

    def change(pickled):
        first, second, rest = pickled.split(b"K\x10")
        changed = first + number(count) + second + number(size) + rest
        return changed.replace(b"K\x01\x85", number(stride) + b"\x85")

    return change


def tuple_bomb(depth=60):
    """A pickle of a dictionary whose key is a tuple of twice the same tuple, and so on: its hash visits 2^depth."""
    steps = b"".join(b"q%ch%c\x86" % (i, i) for i in range(depth))
    return b"\x80\x02}" + b")" + steps + b"K\x01s."


def keys_of_one_hash(count=20_000):
    """A pickle of a dictionary whose keys are 2^61 - 1 times so much, which all have the hash 0."""
    keys = b"".join(b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(1, count))
    return b"\x80\x02}(" + keys + b"u."


def copies(made, count=5000, size=20_000):
    """A pickle that hands a list or a dictionary on ``count`` times, each time to be copied. made: what takes it."""
    numbers = [b"M" + struct.pack("<H", number) for number in range(size)]
    called, bag, step = {
        "sets": (b"c__builtin__\nset\n", b"](" + b"".join(numbers) + b"e", b"h\0h\1\x85R"),
        "states": (b"ccollections\nOrderedDict\n", b"}(" + b"N".join(numbers) + b"Nu", b"h\0)Rh\1b"),
        "texts": (b"c_codecs\nencode\n", b"X" + struct.pack("<I", size) + b"x" * size, b"h\0h\1X\6\0\0\0latin1\x86R"),
    }[made]
    return b"\x80\x02" + called + b"q\0" + bag + b"q\1](" + step * count + b"e."


def encrypted(path):
    """A zip whose records say that they are encrypted."""
    content = bytearray(zip_of(path).read_bytes())
    for signature, flags in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        at = content.find(signature)
        while at >= 0:
            content[at + flags] |= 1
            at = content.find(signature, at + 1)
    path.write_bytes(content)
    return path


def with_two_directories(path, pickled):
    """A zip that has another pickle for those who look for the directory where it is said to be than for those who look
    right before the end."""
    other, shown = zip_of(path, pickled).read_bytes(), zip_of(path).read_bytes()
    length, begin = struct.unpack("<2I", other[-10:-2])
    own = struct.unpack("<I", shown[-6:-2])[0]
    directory = bytearray(shown[own : own + length])
    at = 0
    while at < length:
        directory[at + 42 : at + 46] = struct.pack("<I", struct.unpack_from("<I", directory, at + 42)[0] + begin - own)
        at += 46 + sum(struct.unpack_from("<3H", directory, at + 28))
    path.write_bytes(other[: begin + length] + shown[:own] + directory + shown[-22:-6] + other[-6:])
    return path


def hex_bomb(times=40):
    """A pickle of a text that is encoded in hexadecimal over and over: 2^times bytes."""
    call = b"c_codecs\nencode\n"
    first = call + b"X\x04\x00\x00\x00aaaaX\x06\x00\x00\x00latin1\x86R"
    return b"\x80\x02}X\x01\x00\x00\x00w" + call * times + first + b"X\x03\x00\x00\x00hex\x86R" * times + b"s."


def list_bomb(depth=26, width=10):
    """Nested lists of ten times the same list."""
    value = [1] * width
    for _ in range(depth):
        value = [value] * width
    return value
