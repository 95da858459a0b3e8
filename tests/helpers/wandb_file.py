"""What a file of Weights & Biases holds, read by its published layout: a log of LevelDB's behind seven bytes."""

import json
import struct

from wandb.proto import wandb_internal_pb2

_BLOCK = 32768


def records(path):
    """Its protocol buffers, in order."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, parts = 7, []
    while at + 7 <= len(data):
        if _BLOCK - at % _BLOCK < 7:  # no header fits into the rest of this block
            at += _BLOCK - at % _BLOCK
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        parts.append(data[at + 7 : at + 7 + size])
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(b"".join(parts))
            parts = []


def history(path):
    """The logged steps, each a mapping of names to values."""
    return [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for record in records(path)
        if record.WhichOneof("record_type") == "history"
    ]
