"""ImageNet's evaluation sets, each scored as in published results.

- ``val``: the validation set; ``real``: the same images by the labels of "Are we done with ImageNet?", any of which is
  right, without the images that have none.
- ``v2``, ``v2_threshold``, ``v2_top``: ImageNetV2. Its folders 0 … 999 are class numbers, which don't sort as text.
- ``a``, ``r``: 200 classes; the model's other 800 are masked. With ``val``, ``a_clean`` and ``r_clean`` are scored as
  well: the validation images of the same 200 classes under the same mask, to which the gap is reported.
- ``sketch``: all 1,000 classes.
- ``objectnet``: the objects that ImageNet has, too (113), all else masked; of an object's ImageNet classes the most
  probable one stands for it. Two pixels are cut off each side: the red border that marks the set's images.
- ``c``: ImageNet-C as released, 224 px images shown whole (centre crop, no resize to 256). mCE is the mean over the 15
  corruptions of the error summed over severities, divided by AlexNet's (Hendrycks & Dietterich, 2019).

Classes are found by the names of the folders (of a beton: of its classes), so a set that lacks some still scores right;
how many images it has of the published ones is reported. ImageNet-C must have all its 75 parts, of the same images.
What can't be the set is refused: other classes, more images than were published, another set's file names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from ffdr.config.evaluation import SuiteOptions
from ffdr.data.folder import open_folder
from ffdr.data.source import FileSource
from ffdr.evaluate.classes import NUM_CLASSES, TIMM, ObjectNet, class_numbers, places, real_labels, subset, synsets
from ffdr.evaluate.evaluator import Evaluator, Images, open_images
from ffdr.evaluate.metrics import NO_LABEL
from ffdr.evaluate.report import Report
from ffdr.evaluate.scoring import Scorer
from ffdr.models.build import ModelInfo, class_digest
from ffdr.util.errors import UserError

PUBLISHED = {
    "val": 50000,
    "real": 46837,
    "v2": 10000,
    "v2_threshold": 10000,
    "v2_top": 10000,
    "a": 7500,
    "r": 30000,
    "sketch": 50889,
    "objectnet": 18574,
    "c": 50000,
}
"""Images of each set; of ``c`` in each of its 75 parts."""
_FILES = {
    "val": re.compile(r"ILSVRC2012_val_\d{8}\.JPEG"),
    "v2": re.compile(r"[0-9a-f]{40}\.jpeg"),
    "sketch": re.compile(r"sketch_\d+\.JPEG"),
}
"""How the files of the sets of 1,000 classes are named, which distinguishes the sets."""
ALEXNET_ERROR = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""AlexNet's error on each corruption of ImageNet-C, mean over the five severities, in the canonical order."""
SEVERITIES = (1, 2, 3, 4, 5)
_OBJECTNET_BORDER = 2
_WHOLE = 1.0
"""Crop of ImageNet-C's images."""


@dataclass(frozen=True)
class ScoredPass:
    """Images that the model is shown once, and all that scores its outputs."""

    images: Images
    scorers: dict[str, Scorer]
    border: int = 0
    """pixels that are cut off each side of an image first"""


@dataclass(frozen=True)
class OpenedSuite:
    """The sets of a suite that this machine has, opened and checked."""

    passes: list[ScoredPass] = field(default_factory=list)
    corrupted: dict[str, list[ScoredPass]] = field(default_factory=dict)
    """corruption → its five severities; empty: no ImageNet-C"""
    missing: dict[str, str] = field(default_factory=dict)
    """set → why it can't be scored"""

    @property
    def num_images(self) -> int:
        """How many images the model will be shown."""
        return sum(len(one.images.labels) for one in (*self.passes, *chain(*self.corrupted.values())))

    def remarks(self) -> Iterator[str]:
        """Lines about what is left out: sets that are missing, and images of the published ones."""
        for name, why in self.missing.items():
            yield f"suite.{name} is left out: {why}"
        scorers = {name: scorer for one in self.passes for name, scorer in one.scorers.items()}
        if self.corrupted:
            scorers |= next(iter(self.corrupted.values()))[0].scorers
        for name, scorer in scorers.items():
            if scorer.published and scorer.count != scorer.published:
                yield f"suite.{name}: scored on {scorer.count:,} of the published set's {scorer.published:,} images"


def open_suite(suite: SuiteOptions) -> OpenedSuite:
    """Open the sets that are there, and list those that aren't.

    Raises:
        UserError: a set that is there but isn't what it should be, or none that is there.
    """
    opened = OpenedSuite()
    here: dict[str, str] = {}
    for name, path in asdict(suite).items():
        if path and not Path(path).expanduser().exists() and (name, path) != ("real", TIMM):
            opened.missing[name] = f"there is no {path}"
        elif path:
            here[name] = str(Path(path).expanduser())
    if "real" in here and "val" not in here:
        opened.missing["real"] = "its images are those of val, which is not there"
    for name in [name for name in here if name not in ("real", "c")]:
        one = _open_objectnet(Path(here[name])) if name == "objectnet" else _open_set(name, here, opened.missing)
        opened.passes.append(one)
    if "c" in here:
        opened.corrupted.update(_open_corrupted(Path(here["c"])))
    if not opened.passes and not opened.corrupted:
        missing = "; ".join(f"{name}: {why}" for name, why in opened.missing.items())
        raise UserError(f"suite: no set is there: {missing}")
    return opened


def check_model(info: ModelInfo, any_names: bool = False) -> None:
    """Refuse a model whose classes are not ImageNet's 1,000, as far as that shows. any_names: they may have other
    names."""
    if info.num_classes != NUM_CLASSES:
        raise UserError(f"suite: ImageNet's sets need {NUM_CLASSES:,} classes, but {info.name} has {info.num_classes}")
    if info.classes and info.classes != class_digest(synsets()) and not any_names:
        raise UserError(
            f"suite: {info.name} was trained on other classes than ImageNet's sorted synsets (eval.classes=any if "
            "class N still means the same)"
        )


def run_suite(evaluator: Evaluator, opened: OpenedSuite) -> Report:
    """Scores of every set (``Scorer.report``), and which are missing: {"sets": {name: …}, "missing": {name: why}}.

    Of ``a`` and ``r`` gap is the top-1 that they lack to their clean images; of ``c`` see ``corruption_errors``,
    center is the share of each image that is shown, and images are those of each of its 75 parts.
    """
    sets: dict[str, Report] = {}
    for one in opened.passes:
        loader = evaluator.loader(one.images, border=one.border)
        evaluator.score(loader, one.scorers, ", ".join(one.scorers))
        sets |= {name: scorer.report() for name, scorer in one.scorers.items()}
    for name in ("a", "r"):
        if name in sets and f"{name}_clean" in sets:
            sets[name]["gap"] = sets[f"{name}_clean"]["top1"] - sets[name]["top1"]
    if opened.corrupted:
        errors: dict[str, list[float]] = {}
        for name, passes in opened.corrupted.items():
            for severity, one in enumerate(passes, 1):
                evaluator.score(evaluator.loader(one.images, center=_WHOLE), one.scorers, f"c: {name} {severity}")
                report = one.scorers["c"].report()
                errors.setdefault(name, []).append(1 - report["top1"])
        sets["c"] = corruption_errors(errors) | {"center": _WHOLE}
        sets["c"] |= {key: report[key] for key in ("images", "published_images")}  # the same in all parts
    return {"sets": sets, "missing": opened.missing}


def corruption_errors(errors: Mapping[str, Sequence[float]]) -> Report:
    """Top-1 errors of each corruption by severity, in the form in which results on ImageNet-C are published.

    mce: mean over the corruptions of their ce, which is the error over all severities divided by AlexNet's (1 is
    AlexNet's; papers print 100 times that); top1: mean accuracy, not normalised; errors, ce: by corruption.
    """
    ce = {name: float(np.mean(errors[name])) / alexnet for name, alexnet in ALEXNET_ERROR.items()}
    return {
        "top1": 1 - float(np.mean(list(errors.values()))),
        "mce": float(np.mean(list(ce.values()))),
        "ce": ce,
        "errors": {name: list(errors[name]) for name in ALEXNET_ERROR},
    }


def _open_corrupted(root: Path) -> dict[str, list[ScoredPass]]:
    """The 75 parts of ImageNet-C, which must be of the same images: else there is no mCE."""
    paths = {name: _severities(root, name) for name in ALEXNET_ERROR}
    absent = [f"{name}/{s}" for name, found in paths.items() for s in SEVERITIES if s not in found]
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise UserError(f"suite.c: mCE needs 15 corruptions at 5 severities; {root} has no {absent[0]}{more}")
    first = paths["gaussian_noise"][1]
    passes: dict[str, list[ScoredPass]] = {}
    counts = None
    for name, found in paths.items():
        passes[name] = []
        for path in found.values():
            images = open_images(path, "suite.c")
            scorer = Scorer(_numbers(images, f"suite.c: {path}"), synsets(), NUM_CLASSES, published=PUBLISHED["c"])
            own = np.bincount(scorer.labels, minlength=NUM_CLASSES)
            counts = own if counts is None else counts
            for number in np.flatnonzero(own != counts)[:1]:
                raise UserError(
                    f"suite.c: every part must hold the same images, but of {synsets()[number]} {path} has "
                    f"{own[number]} and {first} {counts[number]}"
                )
            passes[name].append(ScoredPass(images, {"c": scorer}))
    _check_count("c", scorer.count, first)
    return passes


def _severities(root: Path, name: str) -> dict[int, Path]:
    """Where the severities of a corruption lie that are there, as folders or betons."""
    # As the archives unpack in one place, or each (noise, blur, …) in a folder of its own.
    homes = [home for home in (root / name, *sorted(root.glob(f"*/{name}"))) if home.is_dir()]
    home = homes[0] if homes else root / name
    forms = ((severity, home / f"{severity}{ending}") for severity in SEVERITIES for ending in (".beton", ""))
    return {severity: path for severity, path in forms if path.exists()}


def _check_count(name: str, count: int, path: object) -> None:
    if count > PUBLISHED[name]:
        raise UserError(f"suite.{name}: {path} has {count:,} images, but the published set has {PUBLISHED[name]:,}")


def _check_files(name: str, images: Images) -> None:
    """Refuse the images of another set that has 1,000 classes, too, by the name of the first."""
    if not isinstance(images, FileSource):
        return
    file = images.origin(0)
    for other, pattern in _FILES.items():
        if pattern.fullmatch(Path(file).name) and not name.startswith(other):
            path = images.place(file)
            raise UserError(f"suite.{name}: {path} is named as an image of another set (suite.{other})")


def _open_set(name: str, here: dict[str, str], missing: dict[str, str]) -> ScoredPass:
    """A set with a folder for each class, and with val the sets that are scored on the same outputs.

    here: name → path of the sets that are there. missing: gets what can't be scored, and why.
    """
    path = here[name]
    images = open_images(path, f"suite.{name}")
    numbers = _numbers(images, f"suite.{name}: {path}")
    _check_count(name, len(numbers), path)
    if name in ("a", "r"):
        scorer = _masked(name, numbers, PUBLISHED[name])
        strangers = numbers[scorer.labels == NO_LABEL]
        if len(strangers):
            raise UserError(f"suite.{name}: {path}: {synsets()[strangers[0]]} is not one of the set's 200 classes")
        return ScoredPass(images, {name: scorer})
    _check_files(name, images)
    scorers = {name: Scorer(numbers, synsets(), NUM_CLASSES, published=PUBLISHED[name])}
    if name == "val":
        scorers |= {f"{other}_clean": _masked(other, numbers) for other in ("a", "r") if other in here}
        if "real" in here and isinstance(images, FileSource):
            files = [Path(images.origin(i)).name for i in range(len(images))]
            labels = real_labels(here["real"], files)
            scorers["real"] = Scorer(labels, synsets(), NUM_CLASSES, published=PUBLISHED["real"])
        elif "real" in here:
            missing["real"] = "its labels go by file name, which a beton does not keep; give val as a folder"
    return ScoredPass(images, scorers)


def _masked(name: str, numbers: np.ndarray, published: int = 0) -> Scorer:
    chosen = subset(name)
    names = [synsets()[number] for number in chosen]
    return Scorer(places(numbers, chosen), names, NUM_CLASSES, np.array(chosen), published)


def _open_objectnet(root: Path) -> ScoredPass:
    for part in ("images", "mappings"):
        if not (root / part).is_dir():
            raise UserError(f"suite.objectnet: {root} has no folder {part}, as the published set does")
    objects = ObjectNet.read(root / "mappings")
    everything = open_folder(root / "images", "suite.objectnet")
    place = {folder: number for number, folder in enumerate(objects.folders)}
    labels = np.array([place.get(name, NO_LABEL) for name in everything.class_names])[everything.labels]
    shared = np.flatnonzero(labels != NO_LABEL)
    if not len(shared):
        raise UserError(f"suite.objectnet: {root / 'images'} has no folder that the mapping names")
    origins = [everything.origin(int(i)) for i in shared]
    _check_count("objectnet", len(origins), root)
    images = FileSource(everything.root, origins, labels[shared], list(objects.folders))
    scorer = Scorer(images.labels, objects.folders, NUM_CLASSES, objects.columns(), PUBLISHED["objectnet"])
    return ScoredPass(images, {"objectnet": scorer}, border=_OBJECTNET_BORDER)


def _numbers(images: Images, where: object) -> np.ndarray:
    """(N,) ImageNet's class number of each image."""
    return class_numbers(images.class_names, where)[images.labels]
