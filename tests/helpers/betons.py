"""Constants and helpers of the tests that use the shared betons."""

from dataclasses import replace

import numpy as np

from ffdr.augment.policy import Policy
from ffdr.config.learning import DataOptions, ModelOptions, TeacherOptions
from ffdr.config.training import TrainOptions
from ffdr.config.verbs import TrainRecipe

VIEWS, TOPK = 4, 3
PLAIN = Policy(scale=(0.3, 1.0))
MIXING = Policy(scale=(0.3, 1.0), mixup=0.5, cutmix=0.5)
FLIPPED = Policy(scale=(0.3, 1.0), vertical_flip=0.5)
EFFECTS = Policy(
    scale=(0.3, 1.0),
    vertical_flip=0.5,
    color_jitter=(0.4, 0.4, 0.4, 0.1),
    color_jitter_prob=0.8,
    grayscale=0.3,
    blur=0.5,
    solarize=0.3,
)
MIXING_EFFECTS = replace(EFFECTS, mixup=0.5, cutmix=0.5)
"""Every effect."""


def files_in(folder):
    """Names of what lies in a folder, sorted; receipts, each of which must have its output, are not listed."""
    names = {path.name for path in folder.iterdir()}
    receipts = {name for name in names if name.startswith(".") and name.endswith(".work")}
    assert {name[1:-5] for name in receipts} <= names
    return sorted(names - receipts)


def put(writer, image, views, ids, log_probs):
    """Write one image: (K,) records, (K, T) ids and log-probabilities."""
    writer.put(np.array([image]), views[None], ids[None], log_probs[None])


def stored_of(drawn, dtype):
    """Drawn records, which always have a partner, as a file of ``dtype`` holds them."""
    if "first" not in dtype.names:
        return np.ascontiguousarray(drawn["first"])
    stored = np.empty(drawn.shape, dtype)
    for name in dtype.names:
        stored[name] = drawn[name]
    return stored


def student_recipe(task, images, reinforced, teacher, out, val="", name="test_efficientnet", **train):
    """A short run of a tiny model at 32 px."""
    options = {"epochs": 2, "batch_size": 25, "resolution": 32, "lr": 0.01, "eval_every": 9, **train}
    return TrainRecipe(
        train=TrainOptions(task=task, out=str(out), **options),
        data=DataOptions(
            train=str(images), val=str(val), reinforced=str(reinforced) if task == "dr" else "", center=1.0, workers=1
        ),
        model=ModelOptions(name=name),
        policy=PLAIN,
        teacher=TeacherOptions(models=teacher if task == "kd" else ""),
    )
