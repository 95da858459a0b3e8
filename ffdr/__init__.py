"""ffdr: dataset reinforcement, fast and practical, on FFCV.

The rooms, from top to bottom; each imports from those below it only (``tests/test_rooms.py`` holds them to it):

- ``cli.py``      one function per verb
- ``demo/``       the whole path on embedded digits
- ``ablate/``     grids of runs, and what they show
- ``bench/``      measurements: loading, training, a whole GPU
- ``train/``      tasks (ERM, KD, DR), the fit loop, losses, checkpoints
- ``reinforce/``  teachers, and making a reinforced beton
- ``evaluate/``   accuracy, calibration, robustness sets
- ``inspect/``    what a file holds, as text, JSON and picture
- ``mldr/``       the published format of reinforced data, imported and exported
- ``loader/``     from opened betons to batches: ``ReinforcedLoader``, ``ReinforcedDataset``, FFCV's pipeline beneath
- ``write/``      everything that makes a beton, and its check
- ``beton/``      the file: layout, tables, header, opened and checked
- ``data/``       source datasets
- ``codec/``      one image's stored bytes to pixels: JPEG, coefficients
- ``models/``     timm's models: built, compiled, saved, loaded
- ``config/``     options, and recipes that fill them
- ``augment/``    policies, view records, drawing them, and the kernels that replay them
- ``jit/``        how kernels are compiled and kept
- ``util/``       errors, texts, files, processes
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_FACE = {
    "ReinforcedLoader": "ffdr.loader.loader",
    "ReinforcedDataset": "ffdr.loader.dataset",
    "SparseTargetLoss": "ffdr.train.losses",
    "SparseTargets": "ffdr.loader.targets",
}
__all__ = ["ReinforcedDataset", "ReinforcedLoader", "SparseTargetLoss", "SparseTargets"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use: ``ffdr --help`` and refusals need neither torch nor FFCV."""
    if name not in _FACE:
        raise AttributeError(f"module 'ffdr' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_FACE[name]), name)
