"""ffdr: dataset reinforcement, fast and practical, on FFCV.

The map, bottom up (arrows between folders point one way):

- ``augment/``   policies, view records, drawing them, and the Numba kernels that replay them
- ``beton/``     image betons and reinforced betons: write, read, check; the FFCV decoders
- ``data/``      source datasets: digits, image folders, torchvision's
- ``loader.py``  ``ReinforcedLoader``; ``dataset.py`` ``ReinforcedDataset``; ``protocol.py`` is what training asks of a
  loader
- ``targets.py`` and ``models.py``: sparse targets; timm models built, saved and loaded; ``model_files.py``,
  ``torch_files.py``, ``torch_pickle.py``, ``tensors.py`` and ``timm_options.py`` say what weights of strangers may be
- ``foreign.py`` reads small files of strangers whole
- ``ranks.py``   the processes that share one run
- ``reinforce/`` teachers, and making a reinforced beton; ``archive/`` imports and exports the published format
- ``inspect/``   what a file holds, as text, JSON and picture
- ``evaluate/``  accuracy, calibration, robustness sets
- ``train/``     tasks (ERM, KD, DR), the fit loop, losses, checkpoints
- ``ablate/``    grids of runs and what they show
- ``bench/`` and ``demo/``: measurements; the whole path on digits
- ``text.py`` and ``pictures.py``: how figures are said, and drawn with any name in them
- ``cli.py``, ``recipe.py`` and ``yaml_file.py``: one function a verb; YAML and flags become the dataclasses of
  ``options/``
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_FACE = {
    "ReinforcedLoader": "ffdr.loader",
    "ReinforcedDataset": "ffdr.dataset",
    "SparseTargetLoss": "ffdr.train.losses",
    "SparseTargets": "ffdr.targets",
}
__all__ = ["ReinforcedDataset", "ReinforcedLoader", "SparseTargetLoss", "SparseTargets"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use: ``ffdr --help`` and refusals need neither torch nor FFCV."""
    if name not in _FACE:
        raise AttributeError(f"module 'ffdr' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_FACE[name]), name)
