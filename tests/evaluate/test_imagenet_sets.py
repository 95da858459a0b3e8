"""``ffdr eval`` on ImageNet's sets in their published layouts, against timm's and torchvision's own preprocessing.

The view is theirs within one grey level, and bit for bit where nothing is resized; logits follow. Accuracies are equal
for every image whose answer does not hang on that level: the few others are taken out of the sets first.
"""

import json
import sys

import imagenet_oracle as theirs
import imagenet_sets as sets
import numpy as np
import pytest
import timm
import torch
from torchvision.transforms import InterpolationMode

from ffdr import cli
from ffdr.data.folder import open_folder
from ffdr.evaluate.classes import synsets
from ffdr.evaluate.evaluator import Evaluator, center_share
from ffdr.evaluate.folders import BatchFormat, FolderLoader
from ffdr.models.build import (
    ModelInfo,
    class_digest,
    load_model,
    save_model,
)

MODEL = "test_vit"
CLOSE = 0.012
"""Logits that lie closer together may change places with a grey level: it moves those of the best classes against each
other by 0.005 here. The logits of an image differ by about 0.6."""


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return sets.draw_all(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def weights(paths, tmp_path_factory):
    """A model with random features whose last layer has learnt some of the images, so that scores lie between; the
    sets, without the images on which two answers are as good as equal to it."""
    model = timm.create_model(MODEL, num_classes=1000, img_size=224).eval()
    rng = np.random.default_rng(0)  # the same with any version of timm and torch
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.from_numpy(rng.normal(0, parameter[0].numel() ** -0.5, parameter.shape)))
        # Answers hang on patches' mean colours rather than on single pixels.
        stem = model.patch_embed.proj.weight
        stem.copy_(16 * stem.mean((2, 3), keepdim=True).expand_as(stem))
    samples = [sample for name in ("val", "v2", "a", "r", "sketch") for sample in theirs.Sets(paths[name]).samples[::3]]
    samples += theirs.Sets(paths["c"] / "noise" / "shot_noise" / "1").samples
    view = theirs.by_timm(224, 0.875)
    images = torch.stack([view(theirs.opened(path)) for path, _ in samples])
    with torch.inference_mode():
        features = model.forward_head(model.forward_features(images), pre_logits=True).double()
    wanted = torch.nn.functional.one_hot(torch.tensor([label for _, label in samples]), 1000).double()
    mean, features = features.mean(0), features - features.mean(0)
    squares = features.T @ features
    learnt = torch.linalg.solve(squares + squares.diagonal().mean() * torch.eye(len(squares)), features.T @ wanted).T
    weight = 5 * learnt / (features @ learnt.T).amax(1).mean()
    weight += 0.15 / features.std() * torch.from_numpy(rng.standard_normal(weight.shape))
    with torch.no_grad():
        model.get_classifier().weight.copy_(weight)
        model.get_classifier().bias.copy_(-weight @ mean)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_model(path, model, ModelInfo(MODEL, 1000, 224, theirs.MEAN, theirs.STD, 0.875, class_digest(synsets())))
    for name in theirs.Oracle(path, MODEL).close_calls(paths, CLOSE):
        name.unlink()
        if not any(name.parent.iterdir()):
            name.parent.rmdir()
    return path


@pytest.fixture(scope="module")
def expected(weights, paths):
    return theirs.Oracle(weights, MODEL).evaluate(paths)


def run(weights, paths, tmp_path, *flags):
    """The report of ``ffdr eval`` with a recipe that names the sets."""
    file = tmp_path / "suite.yaml"
    file.write_text(json.dumps({"suite": {name: str(path) for name, path in paths.items()}}))
    out = tmp_path / "report.json"
    words = [f"--config-file={file}", f"--eval.checkpoint={weights}", f"--eval.json={out}", "--eval.workers=1"]
    assert cli.main(["eval", *words, *flags]) == 0
    return json.loads(out.read_text())


def same(mine, wanted):
    """Counts and accuracies equal, what is made of probabilities close."""
    for name, scores in wanted.items():
        for key, value in scores.items():
            loose = {"nll": 0.002, "brier": 0.0005, "ece": 0.0005}.get(key, 1e-9)
            for which in value if isinstance(value, dict) else [None]:
                told, asked = (x if which is None else x[which] for x in (mine[name][key], value))
                assert told == pytest.approx(asked, rel=0, abs=loose), (name, key, which)


def test_every_set(weights, paths, expected, tmp_path, capsys):
    report = run(weights, paths, tmp_path)
    assert report["missing"] == {}
    assert set(report["sets"]) == set(expected) == {*theirs.SETS, "a_clean", "r_clean"}
    told = [scores for scores in expected.values() if 0 < scores["top1"] < scores.get("top5", 1) < 1]
    assert len(told) >= 6, "there is little that these could tell"
    assert len({round(error, 3) for errors in expected["c"]["errors"].values() for error in errors}) > 2
    gaps = {name: report["sets"][name]["gap"] for name in ("a", "r")}
    same(report["sets"], expected)
    assert gaps == {n: pytest.approx(expected[f"{n}_clean"]["top1"] - expected[n]["top1"]) for n in ("a", "r")}
    text = capsys.readouterr()
    assert f"mCE {100 * expected['c']['mce']:.2f}" in text.out
    told = [line for line in text.err.splitlines() if "of the published set's" in line]
    assert len(told) == 10 and "ffdr eval: suite.c: scored on 3 of the published set's 50,000 images" in told


def test_reals_own_table(weights, paths, tmp_path):
    """timm's copy of ReaL's labels, on validation images of those numbers."""
    wanted = {"val": paths["val"], "real": "timm"}
    same(run(weights, wanted, tmp_path)["sets"], theirs.Oracle(weights, MODEL).evaluate(wanted))


def test_the_script_prints_the_same(weights, paths, expected, monkeypatch, capsys):
    some = ["v2", "a", "objectnet"]
    flags = [f"--{name}={paths[name]}" for name in some]
    monkeypatch.setattr(sys, "argv", ["imagenet_oracle.py", str(weights), f"--name={MODEL}", *flags])
    theirs.main()
    assert json.loads(capsys.readouterr().out) == {name: expected[name] for name in some}


# The view.


def loader(folder, resolution, crop_pct, border=0):
    info = ModelInfo(MODEL, 1000, resolution, theirs.MEAN, theirs.STD, crop_pct)
    center = center_share(resolution, crop_pct)
    source = open_folder(folder, "test")
    return FolderLoader(source, info, BatchFormat(16, dtype=torch.uint8), center=center, border=border, workers=1)


def pixels(folder, resolution, crop_pct, border=0):
    batches = [images for images, _, _ in loader(folder, resolution, crop_pct, border)]
    return torch.cat(batches).permute(0, 2, 3, 1).numpy().astype(int)


def levels(view):
    """A normalised view (3, H, W) as grey levels (H, W, 3)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (theirs.MEAN, theirs.STD))
    return ((view * std + mean) * 255).round().permute(1, 2, 0).numpy().astype(int)


def viewed(folder, transform, border=0):
    opened = [theirs.opened(path, border) for path, _ in theirs.ImageFolder(folder).samples]
    return np.stack([levels(transform(image)) for image in opened]), [image.size for image in opened]


@pytest.mark.parametrize(("resolution", "crop_pct", "resize"), [(224, 0.875, 256), (224, 0.95, 235), (288, 1.0, 288)])
def test_timm_and_torchvision_make_the_same_view(paths, resolution, crop_pct, resize):
    for path, _ in theirs.Sets(paths["val"]).samples[:9]:
        image = theirs.opened(path)
        first, second = theirs.by_timm(resolution, crop_pct)(image), theirs.by_torchvision(resize, resolution)(image)
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("name", "resolution", "crop_pct"),
    [("val", 224, 0.875), ("val", 224, 0.95), ("val", 160, 0.9), ("v2", 288, 1.0), ("sketch", 240, 0.965)],
)
def test_views_are_theirs_within_one_level(paths, name, resolution, crop_pct):
    mine = pixels(paths[name], resolution, crop_pct)
    wanted, sizes = viewed(paths[name], theirs.by_timm(resolution, crop_pct))
    off = np.abs(mine - wanted)
    assert off.max() <= 1 and (off == 0).mean(axis=(1, 2, 3)).min() > 0.7
    assert abs((mine - wanted).mean()) < 0.02  # no drift
    whole = [k for k, size in enumerate(sizes) if min(size) == int(resolution / crop_pct)]
    assert (off[whole] == 0).all() and (whole or (name, resolution) != ("val", 224) or crop_pct != 0.875)


def test_a_crop_that_is_one_pixel_off_would_be_seen(paths):
    mine = pixels(paths["val"], 224, 0.875)
    wanted, _ = viewed(paths["val"], theirs.by_timm(224, 0.875))
    assert np.abs(mine[:, :, 1:] - wanted[:, :, :-1]).max() > 20
    bicubic, _ = viewed(paths["val"], theirs.by_torchvision(256, 224, InterpolationMode.BICUBIC))
    assert np.abs(mine - bicubic).max() > 10


def test_objectnet_is_shown_without_its_border(paths):
    images = paths["objectnet"] / "images"
    mine = pixels(images, 224, 1.0, border=2)
    wanted, _ = viewed(images, theirs.by_timm(224, 1.0), border=2)
    assert np.abs(mine - wanted).max() <= 1
    assert np.abs(mine - viewed(images, theirs.by_timm(224, 1.0))[0]).max() > 20


def test_imagenet_c_is_shown_as_it_is(paths):
    folder = paths["c"] / "fog" / "3"
    np.testing.assert_array_equal(pixels(folder, 224, 1.0), viewed(folder, theirs.by_torchvision(0, 224))[0])
    smaller = viewed(folder, theirs.by_torchvision(160, 160))[0]
    assert np.abs(pixels(folder, 160, 1.0) - smaller).max() <= 1


def test_logits_are_close(weights, paths):
    model, info = load_model(weights)
    evaluator = Evaluator(model, info, torch.device("cpu"), batch_size=16, workers=1)
    mine = []

    class Keep:
        def update(self, logits, index):
            mine.append(logits)

    evaluator.score(evaluator.loader(open_folder(paths["val"], "test")), {"": Keep()})
    samples = theirs.Sets(paths["val"]).samples
    wanted = theirs.predict(theirs.load(weights, MODEL), samples, theirs.by_timm(224, 0.875))
    off = np.abs(torch.cat(mine).double().numpy() - wanted)
    assert wanted.std() > 0.5 and off.max() < CLOSE and off.mean() < CLOSE / 10
