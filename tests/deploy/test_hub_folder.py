"""Folders for the hub: what timm, transformers and ffdr itself make of them."""

import json

import numpy as np
import pytest
import timm
import torch
from exported import CLASSES, MEAN, STD, asked, digit_views, normalised, shaken, weights
from given import pairs
from PIL import Image
from timm.data import create_transform, resolve_data_config, resolve_model_data_config
from transformers import __version__ as transformers_version

import ffdr
from ffdr.config.learning import ModelOptions
from ffdr.evaluate.evaluator import center_share
from ffdr.loader.loader import ReinforcedLoader
from ffdr.models.build import load_named

MODELS = {
    "test_resnet": ("stem_type=deep", "layers=[1, 1, 1, 2]"),
    "test_vit": ("reg_tokens=2",),
    "test_efficientnet": (),
}


def exported(place, name, options=(), **settings):
    """The model, and the folder that it was exported to."""
    model = weights(place / "m.safetensors", name, options=options)
    return model, ffdr.export_model(checkpoint=place / "m.safetensors", out=place / "hub", progress=False, **settings)


@pytest.fixture(scope="module")
def pixels(digits):
    return digit_views(digits)


@pytest.mark.parametrize("name", MODELS)
def test_timm_answers_as_the_model_does(name, tmp_path, pixels):
    model, out = exported(tmp_path, name, MODELS[name])
    loaded = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    assert asked(lambda images: loaded(images).detach(), model, normalised(pixels)) == 0
    assert {key: value.shape for key, value in loaded.state_dict().items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }
    for view in (resolve_data_config({}, model=loaded), resolve_model_data_config(loaded, use_test_size=True)):
        assert (tuple(view["input_size"]), view["interpolation"], view["crop_mode"]) == (
            (3, 32, 32),
            "bilinear",
            "center",
        )
        assert (tuple(view["mean"]), tuple(view["std"]), view["crop_pct"]) == (MEAN, STD, 0.9)
    assert tuple(loaded.pretrained_cfg["label_names"]) == CLASSES
    again, info = load_named(f"local-dir:{out}")
    assert (info.name, info.resolution, info.center, info.mean, info.std) == (name, 32, 0.9, MEAN, STD)
    assert asked(lambda images: again(images).detach(), model, normalised(pixels)) == 0


def test_timms_transforms_make_the_view_that_the_model_was_validated_with(tmp_path):
    """Within a grey level: timm resizes by Pillow."""
    beton = ffdr.write(pairs(6), out=tmp_path / "x.beton", mode="raw", workers=1, progress=False)
    _, out = exported(tmp_path, "test_resnet")
    _, info = load_named(f"local-dir:{out}")
    share = center_share(info.resolution, info.center)
    loader = ReinforcedLoader(beton, batch_size=6, resolution=32, center=share, dtype=torch.uint8, workers=1)
    ours = next(iter(loader))[0].permute(0, 2, 3, 1).numpy().astype(int)
    view = resolve_model_data_config(timm.create_model(f"local-dir:{out}", pretrained=True))
    transform = create_transform(**{**view, "mean": (0, 0, 0), "std": (1, 1, 1)}, is_training=False)
    theirs = np.stack([255 * transform(image).permute(1, 2, 0).numpy() for image, _ in pairs(6)])
    assert np.abs(theirs - ours).max() <= 1


def test_equal_models_give_equal_bytes(tmp_path):
    _, out = exported(tmp_path, "test_vit")
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert sorted(before) == ["README.md", "config.json", "model.safetensors"]
    ffdr.export_model(checkpoint=tmp_path / "m.safetensors", out=out, overwrite=True, progress=False)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["hub", "m.safetensors"]


def test_a_vit_at_another_size(tmp_path, pixels):
    _, out = exported(tmp_path, "test_vit", resolution=64)
    loaded = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    reference, _ = load_named("", str(tmp_path / "m.safetensors"), resolution=64)
    large = torch.nn.functional.interpolate(normalised(pixels), size=64)
    assert asked(lambda images: loaded(images).detach(), reference, large) == 0
    assert tuple(resolve_data_config({}, model=loaded)["input_size"]) == (3, 64, 64)


def test_a_folder_is_exported_again(tmp_path, pixels):
    """As a student that begins with a model of a hub, whose architecture and options its file has."""
    model, out = exported(tmp_path, "test_resnet", MODELS["test_resnet"])
    name = {"name": f"local-dir:{out}"}
    again = ffdr.export_model(model=name, out=tmp_path / "again", progress=False)
    loaded = timm.create_model(f"local-dir:{again}", pretrained=True).eval()
    assert asked(lambda images: loaded(images).detach(), model, normalised(pixels)) == 0
    assert json.loads((again / "config.json").read_text())["architecture"] == "test_resnet"


def test_a_module_of_timm_that_is_given(tmp_path, pixels):
    model = shaken(timm.create_model("test_vit", num_classes=10, img_size=32))
    config = dict(model.pretrained_cfg)
    out = ffdr.export_model(model=model, resolution=32, out=tmp_path / "hub", progress=False)
    loaded = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    assert asked(lambda images: loaded(images).detach(), model, normalised(pixels)) == 0
    assert dict(model.pretrained_cfg) == config


def test_ffdr_evaluates_it(tmp_path, digits, capsys):
    _, out = exported(tmp_path, "test_vit")
    expected = ffdr.evaluate(checkpoint=tmp_path / "m.safetensors", data=digits, workers=1, classes="any")
    found = ffdr.evaluate(model=ModelOptions(name=f"local-dir:{out}"), data=digits, workers=1)
    assert found["nll"] == expected["nll"] and found["center"] == expected["center"]


@pytest.mark.skipif(int(transformers_version.partition(".")[0]) < 5, reason="its wrapper of timm's models came later")
def test_transformers_finds_the_names_of_the_classes(tmp_path, pixels):
    from transformers import pipeline

    model, out = exported(tmp_path, "test_vit")
    image = Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).resize((80, 80))
    best = pipeline("image-classification", model=str(out), device="cpu")(image)[0]
    view = create_transform(**resolve_model_data_config(timm.create_model(f"local-dir:{out}", pretrained=True)))
    with torch.no_grad():
        probabilities = model(view(image)[None]).softmax(1)[0]
    assert best["label"] == CLASSES[int(probabilities.argmax())]
    assert best["score"] == pytest.approx(probabilities.max().item(), abs=1e-4)
