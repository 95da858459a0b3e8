"""Corruptions: what goes in and comes out, repeatable, stronger with severity; accuracy under them."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images

from ffdr.evaluate import corruptions
from ffdr.evaluate.corruptions import NAMES, SEVERITIES, CorruptedImages, corrupt, corrupt_all
from ffdr.evaluate.evaluator import Evaluator
from ffdr.evaluate.robustness import evaluate_corruptions
from ffdr.models.build import ModelInfo
from ffdr.util.errors import UserError

cv2 = corruptions.cv2


@pytest.fixture(scope="module")
def photos():
    """Cuts of two photographs: what is monotone in severity should be so on pictures, not on noise."""
    whole = load_sample_images().images

    def cuts(size, n=12):
        rng = np.random.default_rng(0)
        for number in range(n):
            image = whole[number % 2]
            side = int(rng.integers(160, 400))
            y, x = rng.integers(0, image.shape[0] - side), rng.integers(0, image.shape[1] - side)
            yield cv2.resize(image[y : y + side, x : x + side], (size, size), interpolation=cv2.INTER_AREA)

    return lambda size, n=12: np.stack(list(cuts(size, n)))


def test_there_are_fifteen():
    assert len(NAMES) == 15


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(32, 32), (17, 41), (1, 1), (224, 160)])
def test_shape_and_type_stay(name, shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    before = image.copy()
    for severity in (1, 5):
        out = corrupt(image, name, severity)
        assert out.shape == image.shape and out.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [32, 96])
def test_error_grows_with_severity(name, size, photos):
    images = photos(size)
    errors = []
    for severity in SEVERITIES:
        out = corrupt_all(images, name, severity)
        errors.append(np.abs(out.astype(float) - images).mean())
    assert errors[0] > 0.5
    assert all(left < right for left, right in itertools.pairwise(errors)), errors


@pytest.mark.parametrize("name", NAMES)
def test_repeatable_and_independent_of_the_other_images(name, photos):
    images = photos(32, 4)
    whole = corrupt_all(images, name, 3, seed=5)
    np.testing.assert_array_equal(whole[2], corrupt(images[2], name, 3, index=2, seed=5))


@pytest.mark.parametrize("name", [n for n in NAMES if "noise" in n or n in ("glass_blur", "snow", "frost", "fog")])
def test_random_ones_differ_by_image_seed_and_severity(name):
    image = np.full((32, 32, 3), 128, np.uint8)
    image[8:24, 8:24] = 40
    outs = [corrupt(image, name, 3, index, seed) for index, seed in ((0, 0), (1, 0), (0, 1))]
    assert all((a != b).any() for i, a in enumerate(outs) for b in outs[:i])


def test_known_values():
    """Contrast and brightness by hand, impulse noise by its share."""
    image = np.zeros((10, 10, 3), np.uint8)
    image[:, :5] = 200
    out = corrupt(image, "contrast", 1)
    assert set(np.unique(out)) == {50, 150}
    assert np.unique(corrupt(np.full((4, 4, 3), 100, np.uint8), "brightness", 2)).tolist() == [151]
    grey = np.full((224, 224, 3), 128, np.uint8)
    noisy = corrupt(grey, "impulse_noise", 5)
    assert (noisy != 128).mean() == pytest.approx(0.27, abs=0.01)
    assert corrupt(grey, "gaussian_noise", 1).std() == pytest.approx(0.08 * 255, rel=0.02)
    assert (corrupt(grey, "defocus_blur", 5) == 128).all()


def test_blurs_keep_the_mean(photos):
    images = photos(64)
    for name in ("defocus_blur", "motion_blur"):
        out = corrupt_all(images, name, 3)
        assert abs(out.mean() - images.mean()) < 1.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((4, 4, 3), np.uint8), "rain", 1), "'rain' is not one of"),
        ((np.zeros((4, 4, 3), np.uint8), "fog", 6), "severity: 6"),
        ((np.zeros((4, 4, 3)), "fog", 1), "float64"),
        ((np.zeros((4, 4), np.uint8), "fog", 1), "(4, 4)"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        corrupt(*arguments)


def evaluator(model, batch_size=256, **fed):
    info = ModelInfo("none", 2, 32, (0.5,) * 3, (0.2,) * 3)
    return Evaluator(model, info, torch.device("cpu"), batch_size, **fed)


class Brightest(torch.nn.Module):
    """Answers with the brighter half of the image; counts its images."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, x):
        self.seen += len(x)
        width = x.shape[3] // 2
        return torch.stack([x[..., :width].mean((1, 2, 3)), x[..., width:].mean((1, 2, 3))], 1)


@pytest.fixture
def halves():
    """Five images of which one half is brighter, and which."""
    images = np.full((5, 32, 32, 3), 60, np.uint8)
    labels = np.array([0, 1, 1, 0, 1])
    for image, label in zip(images, labels, strict=True):
        image[:, label * 16 : label * 16 + 16] = 190
    return images, labels


def test_accuracy_under_corruption(halves):
    images, labels = halves
    model = Brightest().train()
    report = evaluate_corruptions(evaluator(model, 2), images, 1 - labels)
    by_name = report["corruptions"]
    assert model.training and model.seen == 5 * 75
    assert list(by_name) == list(NAMES) and all(len(values) == 5 for values in by_name.values())
    assert by_name["contrast"] == [0.0] * 5 and report["corruption_top1"] < 0.2
    assert report["corruption_top1"] == pytest.approx(np.mean(list(by_name.values())))
    right = evaluate_corruptions(evaluator(Brightest()), images, labels)
    assert right["corruption_top1"] == pytest.approx(1 - report["corruption_top1"])


def test_mirror_images_count_under_corruption_too(halves):
    """Averaged with the mirror image both halves are equally bright; a tie goes to class 0, which two of five have."""
    images, labels = halves
    model = Brightest()
    names = ("contrast", "brightness")
    report = evaluate_corruptions(evaluator(model, flip=True), CorruptedImages(images, names=names), labels)
    assert model.seen == 2 * 5 * 10
    assert report["corruptions"] == {name: [0.4] * 5 for name in names}


def test_images_are_corrupted_once_for_many_models(monkeypatch):
    images = CorruptedImages(np.zeros((3, 16, 16, 3), np.uint8), names=("fog", "snow"))
    calls = []
    real = corruptions.corrupt_all
    monkeypatch.setattr(corruptions, "corrupt_all", lambda *args: calls.append(args[1:3]) or real(*args))
    for _ in range(2):
        report = evaluate_corruptions(evaluator(Brightest()), images, np.zeros(3, int))
    assert calls == [(name, severity) for name in ("fog", "snow") for severity in SEVERITIES]
    assert list(report["corruptions"]) == ["fog", "snow"]


def test_images_without_labels_are_refused():
    with pytest.raises(UserError, match="3 images, but 2 labels"):
        evaluate_corruptions(evaluator(Brightest()), np.zeros((3, 8, 8, 3), np.uint8), np.zeros(2, int))
