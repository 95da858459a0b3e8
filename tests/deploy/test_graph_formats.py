"""Exported graphs, asked by onnxruntime and by torch, beside the model itself."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from exported import CLASSES, MEAN, STD, Own, asked, digit_views, normalised, shaken, weights

import ffdr
from ffdr.deploy.deployed import Deployed
from ffdr.models.build import ModelInfo

READER = """
import json, sys, numpy, torch
extra = {"ffdr.json": ""}
module = torch.export.load(sys.argv[1], extra_files=extra).module()
images = torch.from_numpy(numpy.load(sys.argv[2]))
numpy.savez(sys.argv[3], *(module(images[:size]).detach().numpy() for size in (1, 5)))
print(extra["ffdr.json"])
assert not {"ffdr", "timm"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def pixels(digits):
    """Real ones and noise."""
    noise = torch.from_numpy(np.random.default_rng(5).integers(0, 256, (3, 3, 32, 32), np.uint8))
    return torch.cat([digit_views(digits)[:2], noise])


@pytest.fixture(scope="module")
def of_vit(place):
    """The model, and its file of ONNX."""
    model = weights(place / "vit.safetensors", "test_vit")
    out = ffdr.export_model(checkpoint=place / "vit.safetensors", out=place / "vit.onnx", progress=False)
    return model, out


def session(path):
    return onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])


def runtime(path):
    opened = session(path)
    return lambda images: opened.run(None, {"images": images.numpy()})[0]


def test_onnxruntime_answers_as_the_model_does(of_vit, pixels):
    model, out = of_vit
    assert asked(runtime(out), model, normalised(pixels)) <= 1e-4


def test_a_file_of_onnx_says_what_it_is(of_vit, tmp_path):
    opened = session(of_vit[1])
    (images,), (logits,) = opened.get_inputs(), opened.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(float)", ["batch", 3, 32, 32])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["batch", 10])
    said = opened.get_modelmeta().custom_metadata_map
    assert (said["model"], said["interpolation"], said["opset"]) == ("test_vit", "bilinear", "18")
    assert said["input"] == "float32, (pixels / 255 - mean) / std"
    assert tuple(json.loads(said["class_names"])) == CLASSES
    assert (tuple(json.loads(said["mean"])), tuple(json.loads(said["std"]))) == (MEAN, STD)
    assert (json.loads(said["resolution"]), json.loads(said["crop"])) == (32, 0.9)
    assert said["data_fingerprint"] == "ab" * 16
    model = onnx.load(of_vit[1])
    onnx.checker.check_model(model, full_check=True)
    assert [(part.domain, part.version) for part in model.opset_import] == [("", 18)]
    assert b"site-packages" not in of_vit[1].read_bytes() and b".py" not in of_vit[1].read_bytes()


def test_pixels_are_normalised_in_the_graph(place, pixels):
    model = shaken(Own())
    out = ffdr.export_model(model=model, resolution=32, out=place / "pixels.onnx", pixels=True, progress=False)
    answers = runtime(out)
    assert session(out).get_inputs()[0].type == "tensor(uint8)"
    assert session(out).get_modelmeta().custom_metadata_map["input"] == "uint8 pixels"
    normal = normalised(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert asked(lambda images: answers(pixels[: len(images)]), model, normal) <= 1e-4


def test_torch_reads_the_archive_without_ffdr_and_timm(tmp_path, pixels):
    model = weights(tmp_path / "m.safetensors", "test_efficientnet")
    out = ffdr.export_model(checkpoint=tmp_path / "m.safetensors", out=tmp_path / "m.pt2", progress=False)
    np.save(tmp_path / "images.npy", normalised(pixels).numpy())
    files = [str(tmp_path / file) for file in ("m.pt2", "images.npy", "answers.npz")]
    command = [sys.executable, "-c", READER, *files]
    said = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    found = np.load(tmp_path / "answers.npz")
    answers = {len(found[key]): found[key] for key in found}
    assert out == tmp_path / "m.pt2" and asked(lambda images: answers[len(images)], model, normalised(pixels)) <= 1e-4
    assert tuple(said["class_names"]) == CLASSES and (said["resolution"], said["model"]) == (32, "test_efficientnet")


def test_models_of_torchvision(tmp_path, pixels):
    model = weights(tmp_path / "m.safetensors", "torchvision:squeezenet1_1")
    ffdr.export_model(checkpoint=tmp_path / "m.safetensors", out=tmp_path / "m.pt2", progress=False)
    assert asked(lambda x: torch.export.load(tmp_path / "m.pt2").module()(x), model, normalised(pixels)) <= 1e-4


def test_a_module_of_ones_own_stays_as_it_is(tmp_path, pixels, capsys):
    own = shaken(Own()).train()
    before = {key: value.clone() for key, value in own.state_dict().items()}
    ffdr.export_model(model=own, out=tmp_path / "m.pt2", resolution=32)
    assert own.training and all(parameter.requires_grad for parameter in own.parameters())
    assert all(torch.equal(value, before[key]) for key, value in own.state_dict().items())
    loaded = torch.export.load(tmp_path / "m.pt2", extra_files=(said := {"ffdr.json": ""})).module()
    assert asked(loaded, own.eval(), normalised(pixels)) <= 1e-4
    said = json.loads(said["ffdr.json"])
    assert said["class_names"] == [str(number) for number in range(10)] and said["mean"] == [0.485, 0.456, 0.406]
    assert f"{tmp_path}/m.pt2: module:exported.Own as an archive of torch.export" in capsys.readouterr().out


def test_a_module_is_filled_with_a_files_weights(tmp_path, pixels):
    model = weights(tmp_path / "m.safetensors", "test_resnet")
    empty = timm.create_model("test_resnet", num_classes=10)
    ffdr.export_model(model=empty, checkpoint=tmp_path / "m.safetensors", out=tmp_path / "m.pt2", progress=False)
    loaded = torch.export.load(tmp_path / "m.pt2", extra_files=(said := {"ffdr.json": ""})).module()
    assert asked(loaded, model, normalised(pixels)) <= 1e-4
    assert json.loads(said["ffdr.json"])["mean"] == list(MEAN)
    assert not torch.equal(empty.fc.weight, model.fc.weight)


def test_a_sample_is_fed_as_the_model_is():
    """What answers are compared on: the same every time, of the right scale, no two images alike."""
    info = ModelInfo("x", 10, 30, MEAN, STD)
    sample, pixels = (Deployed(Own(), info, pixels).sample(5) for pixels in (False, True))
    assert pixels.dtype == torch.uint8 and pixels.shape == (5, 3, 30, 30)
    assert (sample - normalised(pixels)).abs().max() < 1e-5
    assert 90 < pixels.float().mean() < 160 and len({tuple(image.flatten().tolist()) for image in pixels}) == 5
    assert torch.equal(Deployed(Own(), replace(info, num_classes=3)).sample(2), sample[:2])
