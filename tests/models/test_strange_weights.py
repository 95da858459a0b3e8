"""Weights of strangers: tensors that can be weights, in containers that unpack to no more than they are."""

import argparse
import os
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from crafted import (
    CLASSES,
    NAME,
    Payload,
    copies,
    encrypted,
    hex_bomb,
    keys_of_one_hash,
    ours,
    refused,
    resized,
    tuple_bomb,
    weights,
    with_two_directories,
    zip_of,
)

from ffdr.models.build import load_model, load_named
from ffdr.models.files import read_info, read_weights

HEAD = torch.zeros(CLASSES, 96)
WEIGHTS = {
    "no dimensions": ({"fc__weight": torch.tensor(1.0)}, r"fc\.weight, of shape \(\), is no weight of classes"),
    "no classes": ({"fc__weight": torch.zeros(0, 96)}, r"fc\.weight, of shape \(0, 96\), is no weight of classes"),
    "other classes": ({"fc__weight": torch.zeros(7, 96), "fc__bias": torch.zeros(7)}, "10 by its metadata, 7 by its"),
    "integers": (
        {"fc__bias": torch.zeros(CLASSES, dtype=torch.int64)},
        r"fc\.bias is int64; this weight is no integer",
    ),
    "nan": ({"fc__bias": torch.full((CLASSES,), torch.nan)}, r"fc\.bias holds values that are infinite or no numbers"),
    "infinite": ({"conv1__weight": torch.full((16, 3, 3, 3), torch.inf)}, r"these are not|infinite or no numbers"),
    "statistics": ({"bn1__running_var": torch.full((24,), torch.nan)}, r"these are not|infinite or no numbers"),
    "missing": ({"fc__bias": None}, "not the weights of test_resnet"),
    "name": ({"a\x1b[31m": torch.zeros(1)}, "is not the name of a tensor"),
    "long name": ({"a" * 1000: torch.zeros(1)}, "is not the name of a tensor"),
}


@pytest.mark.parametrize(("changes", "match"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_are_none(changes, match, tmp_path):
    path = ours(tmp_path / "m.safetensors", state=weights(**changes))
    refused(load_model, path, match=rf"m\.safetensors: .*{match}")


def test_a_file_without_weights_fetches_none(tmp_path, monkeypatch):
    """timm would take an empty state for none, and ask the hub."""
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)
    path = ours(tmp_path / "m.safetensors", state={})
    refused(load_model, path, match="holds no tensors by name|damaged safetensors file")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")  # deprecated
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(1).expand(10**9),
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        lambda: torch.zeros(3, device="meta"),
        lambda: torch.zeros(3, dtype=torch.complex64),
        lambda: torch.zeros(3).to(torch.float8_e4m3fn),
    ],
    ids=["expanded", "sparse", "quantised", "meta", "complex", "float8"],
)
def test_tensors_that_torch_knows_and_weights_are_not(make, tmp_path):
    torch.save({"w": make()}, tmp_path / "m.pt")
    refused(load_named, NAME, str(tmp_path / "m.pt"), match=r"m\.pt: ")


# The containers.


def header(length, text=b"{}", rest=b""):
    return struct.pack("<Q", length) + text + rest


SAFETENSORS = {
    "claims": header(100 << 20, b"{" + b" " * 999),
    "beyond": header(1 << 62),
    "cut": header(50),
    "empty": b"",
    "deep": header(60_000, b'{"a":' * 10_000 + b"1" * 10_000),
    "overlap": header(
        130,
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
        .ljust(130), bytes(16)),
    "product": header(90, b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16]}}'.ljust(90),
                      bytes(16)),
    "short": header(80, b'{"a":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4000000]}}'.ljust(80), bytes(16)),
}  # fmt: skip


@pytest.mark.parametrize("content", SAFETENSORS.values(), ids=SAFETENSORS)
def test_safetensors_that_lie(content, tmp_path):
    (tmp_path / "m.safetensors").write_bytes(content)
    refused(load_model, tmp_path / "m.safetensors", match=r"m\.safetensors: damaged safetensors file \(")


def test_safetensors_are_known_by_how_they_begin(tmp_path):
    path = ours(tmp_path / "model.bin")
    assert load_model(path)[1].name == NAME
    assert read_weights(path).keys() == weights().keys()


def unpacks_to_much(path):
    return zip_of(path, records={"archive/data/9": bytes(50 << 20)}, compression=zipfile.ZIP_DEFLATED)


ZIPS = {
    "compressed": (unpacks_to_much, "its zip is compressed"),
    "storage": (lambda p: zip_of(p, resized(10**6, 10**6)), r"storage 0 has 4,000,000 bytes .* the record has 64"),
    "no record": (lambda p: zip_of(p, lambda x: x.replace(b"X\1\0\0\x000", b"X\1\0\0\x007")), "no such record"),
    "expanded": (lambda p: zip_of(p, resized(16, 10**9, 0)), "has 3.7 GiB by its shape, but less is stored"),
    "tuples": (lambda p: zip_of(p, tuple_bomb()), "a tuple of more than 2,000 values"),
    "codecs": (lambda p: zip_of(p, hex_bomb()), "it encodes something else than bytes"),
    "zeros": (lambda p: zip_of(p, b"\x80\2}X\1\0\0\0wc__builtin__\nbytearray\n\x8a\5\0\0\0\0\1\x85Rs."), "bytearray"),
    "keys": (lambda p: zip_of(p, keys_of_one_hash()), "more than 2,000 keys that are no texts and no small numbers"),
    "keys of sets": (
        lambda p: zip_of(p, keys_of_one_hash().replace(b"}(", b"c__builtin__\nset\n](").replace(b"u.", b"e\x85R.")),
        "more than 2,000 keys",
    ),
    "sets": (lambda p: zip_of(p, copies("sets")), "gives more than 1,000,000 values to what it calls"),
    "states": (lambda p: zip_of(p, copies("states")), "gives more than 1,000,000 values to what it calls"),
    "texts": (lambda p: zip_of(p, copies("texts")), "gives more than 1,000,000 values to what it calls"),
    "beyond": (lambda p: zip_of(p, resized(16, 17)), "a tensor that is not within its storage"),
    "by the way": (
        lambda p: zip_of(
            p, b"\x80\2ctorch._tensor\n_rebuild_from_type_v2\n(ctorch\nFloatStorage\nN\x8a\5\0\0\0\0\1\x85tR."
        ),
        r"it calls torch FloatStorage",
    ),
    "encrypted": (encrypted, "its zip is encrypted"),
    "two directories": (lambda p: with_two_directories(p, hex_bomb(26)), "directory of its zip is not where it says"),
    "payload": (lambda p: (torch.save({"w": Payload()}, p), p)[1], r"it names posix\.mkdir"),
    "steps": (lambda p: zip_of(p, b"\x80\2" + b"]" * 1_000_001), "more than 1,000,000 instructions"),
    "cut pickle": (lambda p: zip_of(p, b"\x80\2}"), "cut off"),
    "stack": (lambda p: zip_of(p, b"\x80\2a."), "its pickle is damaged"),
    "memo": (lambda p: zip_of(p, b"\x80\2h\5."), "its pickle is damaged"),
    "other instruction": (lambda p: zip_of(p, b"\x80\2I9\n."), "that torch does not obey"),
    "case": (lambda p: zip_of(p, records={"ARCHIVE/data/0": bytes(8)}), "several of one name"),
    "record's name": (lambda p: zip_of(p, records={"archive/\x1b": b""}), "a record named"),
    "no pickle": (lambda p: (zipfile.ZipFile(p, "w").writestr("a/b", b""), p)[1], r"without the data\.pkl|cut off"),
}


@pytest.mark.parametrize(("make", "match"), ZIPS.values(), ids=ZIPS)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zips_that_lie(make, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path / "m.pt")
    for call in (load_model, lambda path: load_named(NAME, str(path)), read_weights):
        refused(call, path, match=rf"m\.pt: .*({match}|not a model written by ffdr)")
    refused(read_weights, path, match=match)
    assert not Path("payload").exists()


def test_zips_whose_ends_lie(tmp_path):
    whole = zip_of(tmp_path / "whole.pt").read_bytes()
    ends = {
        "cut": whole[:-30],
        "comment": whole[:-2] + b"\3\0abc",
        "directory": whole[:-10] + struct.pack("<I", 1 << 30) + whole[-6:],
        "start": b"PK\3\4" + bytes(50),
    }
    for name, content in ends.items():
        (tmp_path / f"{name}.pt").write_bytes(content)
        refused(read_weights, tmp_path / f"{name}.pt", match=rf"{name}\.pt: no weights could be read from it \(")


def test_earlier_files_of_torch_that_lie(tmp_path):
    torch.save({"w": torch.arange(16.0)}, tmp_path / "m.pt", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "m.pt").read_bytes()
    assert torch.equal(read_weights(tmp_path / "m.pt")["w"], torch.arange(16.0))
    assert b"cpuq\x06K\x10" in whole
    (tmp_path / "m.pt").write_bytes(whole.replace(b"cpuq\x06K\x10", b"cpuq\x06J\0\0\0\x7f"))
    refused(read_weights, tmp_path / "m.pt", match="its storages have 8,522,825,728 bytes by the pickle, the file")
    assert whole.count(b"K\0K\x10\x85") == 1
    (tmp_path / "m.pt").write_bytes(whole.replace(b"K\0K\x10\x85", b"K\0J\0\0\0\x7f\x85"))
    refused(read_weights, tmp_path / "m.pt", match="it has a tensor that is not within its storage")
    (tmp_path / "m.pt").write_bytes(whole[:-200])
    refused(read_weights, tmp_path / "m.pt", match="no weights could be read")


def test_honest_files_of_torch_are_read_as_before(tmp_path):
    """Whatever people save beside their weights, in both layouts."""
    state = weights()
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))])
    wrapped = {
        "state_dict": {f"module.{key}": torch.nn.Parameter(value, value.is_floating_point() and False)
                       for key, value in state.items()},
        "args": argparse.Namespace(lr=0.1, betas=(0.9, 0.999), names=["a"] * 3000),
        "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(), "epoch": 3, "size": torch.Size([1]),
        "kind": torch.float16, "set": {1, 2}, "big": 2**70, "bytes": b"a\xff", "none": None,
        "half": torch.ones(3).half(),
        "shared": [state["fc.bias"], state["fc.bias"].view(2, 5)],
    }  # fmt: skip
    for content in (state, wrapped):
        for zipped in (True, False):
            torch.save(content, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
            found = read_weights(tmp_path / "m.pt")
            assert found.keys() == state.keys()
            assert all(torch.equal(found[key], state[key]) for key in state)
    assert torch.equal(load_named(NAME, str(tmp_path / "m.pt"))[0].fc.weight, state["fc.weight"])


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/dev/zero"), os.mkfifo], ids=["device", "pipe"])
def test_devices_and_pipes_are_not_read(make, tmp_path):
    make(tmp_path / "m.pt")
    for call in (load_model, read_info, read_weights):
        refused(call, tmp_path / "m.pt", match=r"m\.pt: not a file but a device or a pipe")
