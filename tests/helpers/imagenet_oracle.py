"""Scores on ImageNet's evaluation sets by timm, torchvision, Pillow and NumPy alone: what ``ffdr eval`` is held to.

Written from what the publishers say and do, not from ffdr:

- ImageNet-A and -R: github.com/hendrycks/natural-adv-examples and imagenet-r, ``eval.py``: logits of the 200 classes
- ImageNet-C: github.com/hendrycks/robustness, ``ImageNet-C/test.py``: a centre crop and no resize; AlexNet's errors as
  github.com/google-research/augmix prints them (``imagenet.py``)
- ImageNetV2: github.com/modestyachts/ImageNetV2: a folder's name is the class number
- ObjectNet: github.com/abarbu/objectnet-template-pytorch: two pixels are cut off each side; the mapping as
  github.com/mlfoundations/model-soups reads it (``datasets/objectnet.py``): of an object's classes the best one counts
- ReaL: github.com/google-research/reassessed-imagenet, by timm's own counter

Also a script: ``python tests/helpers/imagenet_oracle.py WEIGHTS.safetensors --name=MODEL --val=DIR --a=DIR …``
"""

import argparse
import json
from pathlib import Path

import numpy as np
import timm
import timm.data
import torch
from PIL import Image, ImageOps
from torchvision import transforms
from torchvision.datasets import ImageFolder

MEAN, STD = timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD
CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
ALEXNET = (
    0.886428, 0.894468, 0.922640, 0.819880, 0.826268, 0.785948, 0.798360, 0.866816,
    0.826572, 0.819324, 0.564592, 0.853204, 0.646056, 0.717840, 0.606500,
)  # fmt: skip
SETS = ("val", "real", "v2", "v2_threshold", "v2_top", "a", "r", "sketch", "objectnet", "c")


def by_timm(resolution, crop_pct, interpolation="bilinear"):
    """Its preprocessing for evaluation."""
    return timm.data.create_transform(
        (3, resolution, resolution),
        is_training=False,
        interpolation=interpolation,
        mean=MEAN,
        std=STD,
        crop_pct=crop_pct,
        crop_mode="center",
    )


def by_torchvision(resize, crop, interpolation=transforms.InterpolationMode.BILINEAR):
    """What its classification references do; resize: of the short side, 0: none."""
    steps = [transforms.Resize(resize, interpolation)] if resize else []
    return transforms.Compose(
        [*steps, transforms.CenterCrop(crop), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )


def load(weights, name, resolution=224):
    """The model, by timm alone; resolution: for those that are built for one."""
    size = {"img_size": resolution} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    return timm.create_model(name, num_classes=1000, checkpoint_path=str(weights), **size).eval()


class Sets(ImageFolder):
    """A folder for each class, which is named by its synset or by its number."""

    def find_classes(self, directory):
        """Classes by name, with their numbers among ImageNet's 1,000."""
        names, _ = super().find_classes(directory)
        synsets = sorted(timm.data.ImageNetInfo().label_names())
        return names, {name: int(name) if name.isdigit() else synsets.index(name) for name in names}


def opened(path, border=0):
    """An image in RGB; border: pixels cut off each side."""
    return ImageOps.crop(Image.open(path).convert("RGB"), border)


@torch.inference_mode()
def predict(model, samples, transform, border=0):
    """Logits (N, 1000) float64. samples: (path, class) of each image; border: pixels cut off each side."""
    batches = torch.stack([transform(opened(path, border)) for path, _ in samples]).split(32)
    return torch.cat([model(batch) for batch in batches]).double().numpy()


def scores(logits, labels):
    """Of logits (N, K) and (N,) places of the right answers among them."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    own = p[np.arange(len(p)), labels]
    order = np.argsort(-logits, axis=1)
    found = order == labels[:, None]
    brier = ((p - np.eye(p.shape[1])[labels]) ** 2).sum(1)
    return {
        "images": len(p),
        "top1": float(found[:, 0].mean()),
        "top5": float(found[:, :5].any(1).mean()),
        "nll": float(-np.log(own).mean()),
        "brier": float(brier.mean()),
        "ece": calibration_error(p.max(1), found[:, 0]),
    }


def calibration_error(confidence, right, bins=15):
    """Expected calibration error of bins of equal width: the gaps of accuracy and confidence, by their shares."""
    place = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1])
    gaps = [abs((confidence[place == k] - right[place == k]).sum()) for k in range(bins)]
    return float(sum(gaps) / len(confidence))


def is_close(logits, gap):
    """(N,) whether a small change of the logits might change a score by much: the best answer, or the fifth one, is
    less than ``gap`` above the next, or the confidence lies at the edge of two of the calibration error's bins."""
    order = -np.sort(-np.asarray(logits), axis=1)
    edge = np.exp(order[:, 0] - order.max()) / np.exp(order - order.max()).sum(1) * 15
    near = np.abs(edge - np.round(edge)) < gap
    return (order[:, 0] - order[:, 1] < gap) | (order[:, 4] - order[:, 5] < gap) | near


def subset_of(which):
    """Class numbers of ImageNet-A's or -R's 200 synsets, ascending."""
    synsets = sorted(timm.data.ImageNetInfo().label_names())
    folder = Path(timm.data.__file__).parent / "_info"
    return sorted(map(synsets.index, (folder / f"imagenet_{which}_synsets.txt").read_text().split()))


def real_scores(logits, samples, file):
    """By ReaL's labels, counted by timm; file: real.json, or "timm" for its own table."""
    names = [str(path) for path, _ in samples]
    unseen = ["ILSVRC2012_val_00000001.JPEG"] * (50000 - len(names))  # timm asks for all 50,000 names
    counter = timm.data.RealLabelsImagenet(names + unseen, real_json=None if file == "timm" else str(file))
    counter.add_result(torch.from_numpy(logits))
    kept = np.array([bool(counter.real_labels[Path(name).name]) for name in names])
    p = np.exp(logits - logits.max(1, keepdims=True))
    confidence = (p.max(1) / p.sum(1))[kept]
    return {
        "images": int(kept.sum()),
        "top1": counter.get_accuracy(1) / 100,
        "top5": counter.get_accuracy(5) / 100,
        "ece": calibration_error(confidence, np.array(counter.is_correct[1])),
    }


def object_classes(mappings):
    """{folder: ImageNet's class numbers} of the objects that ImageNet has, too."""

    def read(name):
        return json.loads((mappings / name).read_text())

    lines = [line.strip() for line in (mappings / "imagenet_to_label_2012_v2").open()]
    number = {lines[line]: int(k) for k, line in read("pytorch_to_imagenet_2012_id.json").items()}
    folders = {label: folder for folder, label in read("folder_to_objectnet_label.json").items()}
    shared = read("objectnet_to_imagenet_1k.json")
    return {folders[label]: [number[name] for name in names.split("; ")] for label, names in shared.items()}


class Oracle:
    """A model and how it is fed: resolution and crop_pct, bilinear."""

    def __init__(self, weights, name, resolution=224, crop_pct=0.875):
        self.model, self.resolution = load(weights, name, resolution), resolution
        self.transform = by_timm(resolution, crop_pct)

    def evaluate(self, paths):
        """{set: its scores}. paths: {set: where it lies}, and of ReaL the file of its labels."""
        found = {}
        for name, (_, logits, labels) in self._answered(paths).items():
            found[name] = scores(logits, labels)
        if "real" in paths:
            samples = Sets(paths["val"]).samples
            found["real"] = real_scores(predict(self.model, samples, self.transform), samples, paths["real"])
        if "c" in paths:
            found["c"] = self._corruptions(Path(paths["c"]))
        return found

    def close_calls(self, paths, gap):
        """Files whose answers another resize might change (``is_close``); ImageNet-C's at 224 px need none."""
        found = set()
        for files, logits, _ in self._answered(paths).values():
            found |= {Path(file) for file, close in zip(files, is_close(logits, gap), strict=True) if close}
        return sorted(found)

    def _answered(self, paths):
        """{set: files, logits (N, K), labels (N,)} of the sets with one label for each image."""
        found = {}
        for name in SETS:
            if name not in paths or name in ("real", "objectnet", "c"):
                continue
            samples = Sets(paths[name]).samples
            files, labels = np.array([file for file, _ in samples]), np.array([label for _, label in samples])
            logits = predict(self.model, samples, self.transform)
            if name not in ("a", "r"):
                found[name] = files, logits, labels
            also = [name] if name in ("a", "r") else [w for w in ("a", "r") if w in paths] if name == "val" else []
            for which in also:
                chosen = subset_of(which)
                kept = np.isin(labels, chosen)
                title = which if name == which else f"{which}_clean"
                found[title] = files[kept], logits[kept][:, chosen], np.searchsorted(chosen, labels[kept])
        if "objectnet" in paths:
            found["objectnet"] = self._objectnet(Path(paths["objectnet"]))
        return found

    def _objectnet(self, root):
        classes = object_classes(root / "mappings")
        folders = sorted(classes)
        samples = [(file, k) for k, folder in enumerate(folders) for file in (root / "images" / folder).glob("*.png")]
        logits = predict(self.model, samples, self.transform, border=2)
        best = np.stack([logits[:, classes[folder]].max(1) for folder in folders], 1)
        return [file for file, _ in samples], best, np.array([label for _, label in samples])

    def _corruptions(self, root):
        view = by_torchvision(0 if self.resolution == 224 else self.resolution, self.resolution)
        errors = {}
        for name in CORRUPTIONS:
            home = next(path for path in (root / name, *root.glob(f"*/{name}")) if path.is_dir())
            errors[name] = [self._error(home / str(severity), view) for severity in range(1, 6)]
        ce = {name: sum(errors[name]) / (5 * alexnet) for name, alexnet in zip(CORRUPTIONS, ALEXNET, strict=True)}
        mean = float(np.mean(list(errors.values())))
        return {"top1": 1 - mean, "mce": float(np.mean(list(ce.values()))), "ce": ce, "errors": errors}

    def _error(self, folder, view):
        samples = Sets(folder).samples
        logits = predict(self.model, samples, view)
        return float(np.mean(np.argmax(logits, 1) != [label for _, label in samples]))


def main():
    """Print the scores of the sets that are named, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights")
    parser.add_argument("--name", required=True, help="timm's name of the model")
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--crop-pct", type=float, default=0.875)
    for name in SETS:
        parser.add_argument(f"--{name}", help="its folder" if name != "real" else "real.json, or timm")
    asked = vars(parser.parse_args())
    paths = {name: asked[name] for name in SETS if asked[name]}
    oracle = Oracle(asked["weights"], asked["name"], asked["resolution"], asked["crop_pct"])
    print(json.dumps(oracle.evaluate(paths), indent=2))


if __name__ == "__main__":
    main()
