"""ffdr: dataset reinforcement, fast and exact, on FFCV.

The rooms, from top to bottom; each imports from those below it only (``tests/test_rooms.py`` holds them to it):

- ``cli.py``      one function per verb
- ``demo/``       the whole path on embedded digits
- ``ablate/``     grids of runs, and what they show
- ``bench/``      measurements: loading, training, a whole GPU
- ``deploy/``     a trained model for other tools: ONNX, torch.export, the Hugging Face hub
- ``train/``      tasks (ERM, KD, DR), the fit loop, losses, checkpoints
- ``reinforce/``  teachers, and making a reinforced beton
- ``evaluate/``   accuracy, calibration, robustness sets
- ``inspect/``    what a file holds, as text, JSON and picture
- ``fkd/``        soft labels of Fast Knowledge Distillation, imported
- ``mldr/``       the published format of reinforced data, imported and exported
- ``archive/``    what reading archives of others has in common
- ``ffcv/``       decoders for the pipelines of FFCV's own Loader
- ``loader/``     from opened betons to batches: ``ReinforcedLoader``, ``ReinforcedDataset``, FFCV's pipeline beneath
- ``write/``      everything that makes a beton, and its check
- ``beton/``      the file: layout, tables, header, opened and checked
- ``data/``       source datasets
- ``codec/``      one image's stored bytes to pixels: JPEG, coefficients
- ``models/``     timm's, torchvision's and one's own models: built, compiled, saved, loaded
- ``config/``     options, and recipes that fill them
- ``augment/``    policies, view records, drawing them, and the kernels that replay them
- ``jit/``        how kernels are compiled and kept
- ``util/``       errors, texts, files, processes
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ffdr import ffcv
    from ffdr.augment.policy import Policy
    from ffdr.deploy import export_model
    from ffdr.evaluate import evaluate
    from ffdr.loader.dataset import ReinforcedDataset
    from ffdr.loader.loader import ReinforcedLoader
    from ffdr.loader.targets import SparseTargets
    from ffdr.reinforce import reinforce
    from ffdr.train import train
    from ffdr.train.update.bce import SparseBceLoss
    from ffdr.train.update.losses import SparseTargetLoss
    from ffdr.write import write

__version__ = "0.1.0"
__all__ = [
    "Policy", "ReinforcedDataset", "ReinforcedLoader", "SparseBceLoss", "SparseTargetLoss", "SparseTargets",
    "evaluate", "export_model", "ffcv", "reinforce", "train", "write",
]  # fmt: skip
_MODULES = {
    "Policy": "ffdr.augment.policy",
    "ReinforcedDataset": "ffdr.loader.dataset",
    "ReinforcedLoader": "ffdr.loader.loader",
    "SparseBceLoss": "ffdr.train.update.bce",
    "SparseTargetLoss": "ffdr.train.update.losses",
    "SparseTargets": "ffdr.loader.targets",
    "export_model": "ffdr.deploy",
}
"""Where names are defined that are no rooms themselves."""


def __getattr__(name: str) -> Any:
    """Import the public names on first use: ``ffdr --help`` and refusals need neither torch nor FFCV."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    if name in __all__:
        return import_module(f"ffdr.{name}")  # verbs can be called, see util/callable_package.py
    raise AttributeError(f"module 'ffdr' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__})
