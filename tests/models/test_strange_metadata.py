"""Metadata of strangers' checkpoints: fields of their types and in range; no model without weights for it."""

import time

import pytest
import timm
import torch
from crafted import CLASSES, SIDE, metadata, ours, refused, resized, tuple_bomb, weights, zip_of

from ffdr.cli import main
from ffdr.config.learning import ModelOptions
from ffdr.evaluate.settings import run_options, validation_settings
from ffdr.models import factory
from ffdr.models.build import build_model, load_model
from ffdr.models.files import read_info

FIELDS = [
    {"resolution": 60000}, {"resolution": 4097}, {"resolution": 0}, {"resolution": "32"}, {"resolution": True},
    {"resolution": 32.5}, {"resolution": None}, {"resolution": [32]}, {"resolution": 10**4000},
    {"num_classes": 10**9}, {"num_classes": 0}, {"num_classes": "10"}, {"num_classes": True}, {"num_classes": None},
    {"mean": "0.5"}, {"mean": [0.5]}, {"mean": [0.5, "0.5", 0.5]}, {"mean": [float("nan")] * 3}, {"mean": None},
    {"std": [0, 1, 1]}, {"std": [float("inf")] * 3}, {"std": [[0.3]] * 3}, {"std": [True] * 3}, {"std": [0.3] * 9999},
    {"center": 9}, {"center": "all"}, {"center": float("nan")}, {"center": None}, {"center": -1},
    {"name": "hf-hub:someone/model"}, {"name": "local-dir:/tmp"}, {"name": "/tmp/x"}, {"name": "a" * 30_000},
    {"name": 5}, {"name": None},
    {"name": "resnet\x1b[31m"}, {"name": ""},
    {"classes": 5}, {"classes": "x" * 999}, {"fingerprint": []}, {"fingerprint": "\n"}, {"options": "drop_rate=1"},
    {"options": [5]}, {"options": {"drop_rate": 1}}, {"options": None}, {"options": ["drop_rate=0.1"] * 99},
    {"class_names": "abcdefghij"}, {"class_names": ["a"] * 9 + [5]}, {"class_names": {"0": "a"}}, {"class_names": None},
    {"class_names": ["a"] * 9}, {"class_names": [str(i) for i in range(10)]}, {"class_names": ["\ud800"] * 10},
    {"class_names": [["a"]] * 10}, {"class_names": ["\x1b[31m" * 999] * 10}, {"class_names": ["a"] * (1 << 17)},
    {"version": 2}, {"version": True}, {"version": "1"}, {"surprise": 1}, {"\x1b[31m" * 999: 1},
]  # fmt: skip


@pytest.mark.parametrize("changes", FIELDS, ids=lambda changes: str(changes)[:30])
def test_a_field_of_metadata_is_of_its_type_and_in_range(changes, tmp_path):
    path = ours(tmp_path / "m.safetensors", **changes)
    message = refused(read_info, path, match=r"m\.safetensors: damaged metadata \(")
    (key,) = changes
    assert key in message or "is no number" in message or not key.isprintable()


TEXTS = {
    "deep": '{"version": 1, "name": ' + "[" * 30_000 + "]" * 30_000 + "}",
    "long": metadata(classes="0" * 70_000),
    "longer": metadata(class_names=["0" * (1 << 20)] * 5),
    "twice": metadata()[:-1] + ', "resolution": 64}',
    "digits": metadata()[:-1] + ', "x": ' + "9" * 60_000 + "}",
    "list": "[1]",
    "number": "1",
    "text": "hello",
    "cut": metadata()[:-5],
    "nothing": "",
    "no version": "{}",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_metadata_is_a_short_flat_object(text, tmp_path):
    refused(read_info, ours(tmp_path / "m.safetensors", text=text), match=r"m\.safetensors: damaged metadata \(")


def test_a_name_that_timm_lacks_is_reported_with_the_file(tmp_path):
    path = ours(tmp_path / "m.safetensors", name="test_resnt")
    refused(load_model, path, match=r"m\.safetensors: name: timm has no model 'test_resnt' \(did you mean test_resnet")


# What is built.


@pytest.fixture
def nothing_built(monkeypatch):
    """No model but on the device that holds no numbers."""
    weights()
    weights("test_vit")
    real = timm.create_model

    def create(*arguments, **options):
        assert torch.empty(0).device.type == "meta"
        return real(*arguments, **options)

    monkeypatch.setattr(factory.timm, "create_model", create)


HUGE = [
    {"options": ["layers=[60000,1,1,1]"]},
    {"options": ["layers=[50000,50000,50000,50000]"]},
    {"options": ["channels=[65536,65536,65536,65536]"]},
    {"options": ["base_width=65536"]},
    {"options": ["stem_width=30000", "stem_type=deep"]},
    {"name": "vit_giant_patch14_224"},
    {"name": "regnety_1280"},
    {"name": "test_vit", "resolution": 4096, "options": ["patch_size=1"]},
    {"name": "beit_base_patch16_224", "resolution": 4096},
    {"name": "densenet121", "options": ["growth_rate=65536"]},
    {"name": "rexnet_100", "options": ["depth_mult=65536"]},
]


@pytest.mark.parametrize("changes", HUGE, ids=lambda changes: "-".join(map(str, changes.values()))[:40])
def test_no_model_is_built_that_the_file_has_no_weights_for(changes, tmp_path, nothing_built):
    refused(load_model, ours(tmp_path / "m.safetensors", **changes), match=r"m\.safetensors: ")


def test_a_model_that_would_take_forever_is_shown_nothing(tmp_path):
    """Sixteen million patches, all of which look at each other, of a file of a megabyte."""
    options = ("pos_embed=none", "patch_size=1")
    state = build_model(ModelOptions("test_vit", options=options), CLASSES, SIDE).state_dict()
    path = ours(tmp_path / "m.safetensors", state=state, name="test_vit", resolution=4096, options=options)
    refused(
        load_model, path, match=r"m\.safetensors: a test_vit as it says takes 4e\+17 operations for an image of 4096 px"
    )
    load_model(ours(tmp_path / "m.safetensors", state=state, name="test_vit", resolution=32, options=options))


def test_images_that_the_model_cannot_take_are_reported_before_any_is_shown(tmp_path):
    vit = weights("test_vit")
    path = ours(tmp_path / "m.safetensors", state=vit, name="test_vit", options=["global_pool=''"])
    refused(load_model, path, match=r"test_vit gives \(1, \d+, 10\) for an image instead of 10 classes")
    path = ours(tmp_path / "m.safetensors", state=vit, name="test_vit", resolution=33)
    refused(load_model, path, match=r"m\.safetensors: test_vit can't take images of 33 px")


# End to end.

ENDS = {
    "resolution": lambda p: ours(p, resolution=60000),
    "layers": lambda p: ours(p, options=["layers=[60000,1,1,1]"]),
    "deep": lambda p: ours(p, text=TEXTS["deep"]),
    "head": lambda p: ours(p, state=weights(fc__weight=torch.tensor(1.0))),
    "storage": lambda p: zip_of(p.with_suffix(".pt"), resized(10**6, 10**6)),
    "tuples": lambda p: zip_of(p.with_suffix(".pt"), tuple_bomb()),
    "size": lambda p: ours(p, state=weights("test_vit"), name="test_vit", resolution=33),
}


@pytest.mark.parametrize("make", ENDS.values(), ids=ENDS)
def test_each_ends_an_evaluation_with_one_line_and_status_2(make, tmp_path, digits, capsys):
    path = make(tmp_path / "m.safetensors")
    start = time.monotonic()
    assert main(["eval", f"--checkpoint={path}", f"--data={digits}"]) == 2
    assert time.monotonic() - start < 15
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ffdr eval: {path}: ") and line.isprintable()


def test_a_batch_that_no_memory_holds_is_reported(tmp_path, digits, monkeypatch, capsys):
    monkeypatch.setattr("ffdr.evaluate.run.machine_memory", lambda: 1 << 20)
    path = ours(tmp_path / "m.safetensors")
    assert main(["eval", f"--checkpoint={path}", f"--data={digits}"]) == 2
    assert "eval.batch_size: 100 images of 32 px are 1.5 MiB, but this machine has 1.0 MiB" in capsys.readouterr().err


def test_what_stands_beside_weights_is_read_as_it_may_be(tmp_path):
    for text in (
        "[" * 99_999,
        "[1]",
        '{"train": 5, "data": [1], "resolved": null}',
        '{"train": {"ema": "x"}}',
        "{}" + " " * 2**21,
    ):
        (tmp_path / "options.json").write_text(text)
        assert validation_settings(run_options(tmp_path)).keys() <= {"interpolation"}
