"""Models of a folder as timm writes it for the hub, and of the hub's cache, beside timm's own reading of them."""

import json
import os
import pickle
import socket

import pytest
import timm
import torch
from crafted import Payload, refused
from timm.data import resolve_model_data_config
from timm.models import save_for_hf

from ffdr.config.learning import ModelOptions, TeacherOptions
from ffdr.models.build import architecture_of, build_model, load_named
from ffdr.models.hub import hub_info
from ffdr.reinforce.teacher import Teacher

NAME, ARGUMENTS = "test_resnet", {"layers": [1, 1, 1, 2], "stem_type": "deep"}


def saved(folder, name=NAME, safe=True, classes=5, **arguments):
    torch.manual_seed(1)
    model = timm.create_model(name, num_classes=classes, **arguments).eval()
    view = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "crop_pct": 0.9, "input_size": (3, 160, 160)}
    model.pretrained_cfg = {**model.pretrained_cfg, **view}
    save_for_hf(model, folder, model_args=arguments, safe_serialization=safe)
    return model


@pytest.mark.parametrize("safe", [True, False])
def test_a_folder_is_what_timm_makes_of_it(tmp_path, safe):
    written = saved(tmp_path / "a:b", safe=safe, **ARGUMENTS)
    name = f"local-dir:{tmp_path / 'a:b'}"
    model, info = load_named(name)
    reference = timm.create_model(name, pretrained=True).eval()
    images = torch.rand(2, 3, 160, 160)
    assert torch.equal(model(images), reference(images)) and torch.equal(model(images), written(images))
    fed = resolve_model_data_config(reference)
    assert (info.mean, info.std, info.center) == (tuple(fed["mean"]), tuple(fed["std"]), fed["crop_pct"])
    assert (info.name, info.num_classes, info.resolution) == (NAME, 5, fed["input_size"][-1])
    assert {"layers=[1, 1, 1, 2]", "stem_type=deep"} <= set(info.options)


def test_it_is_stored_by_its_architecture(tmp_path):
    written = saved(tmp_path / "m", **ARGUMENTS)
    asked = ModelOptions(f"local-dir:{tmp_path / 'm'}", pretrained=True, options=("drop_rate=0.1",))
    tuned = build_model(asked, 3, 64)
    assert torch.equal(tuned.layer4[1].conv1.weight, written.layer4[1].conv1.weight)
    assert (
        tuned.fc.out_features == 3
        and tuned.drop_rate == 0.1
        and not torch.equal(tuned.fc.weight, written.fc.weight[:3])
    )
    stored = architecture_of(asked)
    assert stored.name == NAME and {"stem_type=deep", "drop_rate=0.1"} <= set(stored.options)
    fresh = build_model(ModelOptions(asked.name), 3, 64)
    assert fresh.layer4[1].conv1.weight.shape == written.layer4[1].conv1.weight.shape
    assert not torch.equal(fresh.layer4[1].conv1.weight, written.layer4[1].conv1.weight)


def test_a_vit_of_a_folder_moves_to_another_size(tmp_path):
    saved(tmp_path / "m", "test_vit", img_size=160)
    name = f"local-dir:{tmp_path / 'm'}"
    model, info = load_named(name, resolution=96)
    reference = timm.create_model(name, pretrained=True, img_size=96).eval()
    images = torch.rand(1, 3, 96, 96)
    assert info.resolution == 96 and torch.equal(model(images), reference(images))


def test_it_teaches(tmp_path):
    written = saved(tmp_path / "m")
    options = TeacherOptions(models=f"local-dir:{tmp_path / 'm'}", precision="float32")
    teacher = Teacher.from_options(options, 5, "cpu")
    assert teacher.names == (NAME,)  # no path of this machine goes into files
    pixels = torch.randint(0, 256, (2, 160, 160, 3), dtype=torch.uint8)
    images = (pixels.permute(0, 3, 1, 2) / 255 - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor(
        [0.4, 0.5, 0.6]
    )[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(teacher.log_probs(pixels), written(images).log_softmax(1), rtol=1e-4, atol=1e-4)


def test_the_hubs_cache_serves_without_a_network(tmp_path, monkeypatch):
    """Laid out as huggingface_hub does it; nothing is asked of a host that nobody knows."""
    from huggingface_hub import constants

    repository = tmp_path / "models--somebody--net"
    saved(repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    unknown = socket.gaierror(-2, "Name or service not known")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: (_ for _ in ()).throw(unknown))
    monkeypatch.setattr("ffdr.models.hub.try_to_load_from_cache", _within(tmp_path))
    model, info = load_named("hf-hub:somebody/net")
    assert info.num_classes == 5 and info.name == NAME
    assert torch.equal(load_named("hf-hub:somebody/net@abc")[0].fc.weight, model.fc.weight)
    said = refused(load_named, "hf-hub:somebody/other", match=r"^model\.name: hf-hub:somebody/other can't be had")
    assert "Name or service not known" in said


def _within(cache):
    import functools

    from huggingface_hub import try_to_load_from_cache

    return functools.partial(try_to_load_from_cache, cache_dir=cache)


GOOD = {"architecture": NAME, "num_classes": 5, "model_args": {}, "pretrained_cfg": {"input_size": [3, 64, 64]}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "os.system"}, "architecture: timm has no model 'os.system'"),
        ({"architecture": "hf-hub:a/b"}, "is not a name of timm's"),
        ({"architecture": "module:a.B"}, "is not a name of timm's"),
        ({"architecture": 3}, 'names no "architecture"'),
        ({"num_classes": 10**9}, "num_classes"),
        ({"num_classes": "5"}, "num_classes"),
        ({"model_args": {"pretrained_cfg": {"url": "http://x"}}}, "pretrained_cfg"),
        ({"model_args": {"checkpoint_path": "x.pt"}}, "checkpoint_path"),
        ({"model_args": {"norm_layer": ["os", ["system"]]}}, "norm_layer"),
        ({"model_args": {"layers": [60000] * 4}}, "layers|as it says has"),
        ({"model_args": {"channels": [65536] * 4}}, "this machine has|as it says has"),
        ({"model_args": {"in_chans": 1}}, "3 channels"),
        ({"model_args": [1]}, "model_args"),
        ({"model_args": {f"k{n}": "x" for n in range(65)}}, "model_args: 65 of them"),
        ({"pretrained_cfg": 3}, "pretrained_cfg"),
        ({"pretrained_cfg": {"input_size": [3, 64, 10**9]}}, "input_size"),
        ({"pretrained_cfg": {"input_size": [3, 64, 96]}}, "square"),
        ({"pretrained_cfg": {"mean": ["a", 0, 0]}}, "mean"),
        ({"pretrained_cfg": {"std": [0, 0, 0]}}, "std"),
        ({"pretrained_cfg": {"crop_pct": 1e9}}, "crop_pct"),
    ],
)
def test_a_hostile_description_is_one_line(tmp_path, changes, message):
    saved(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(json.dumps(GOOD | changes))
    assert message and refused(load_named, f"local-dir:{tmp_path / 'm'}", match=message)


@pytest.mark.parametrize(
    "text", ["", "[" * 10**5, "[]", "{}", '{"architecture": "test_resnet"', "\xff", " " * (2 << 20)]
)
def test_a_description_that_is_none(tmp_path, text):
    saved(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_bytes(text.encode("latin-1"))
    refused(hub_info, f"local-dir:{tmp_path / 'm'}")


def test_weights_run_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    refused(load_named, f"local-dir:{tmp_path / 'm'}", match=r"there is no model\.safetensors,pytorch_model\.bin")
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(pickle.dumps({"fc.weight": Payload()}))
    refused(load_named, f"local-dir:{tmp_path / 'm'}", match="no weights could be read")
    torch.save({"fc.weight": Payload()}, tmp_path / "m" / "pytorch_model.bin")
    refused(load_named, f"local-dir:{tmp_path / 'm'}", match="no weights could be read")
    assert not os.path.exists("payload")


def test_other_uses_of_the_format_are_left_alone(tmp_path):
    """A configuration of transformers names no architecture of timm."""
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["ViTForImageClassification"]}))
    refused(hub_info, f"local-dir:{tmp_path}", match="models of transformers are not read")
