"""Oxford Flowers-102 from the files that torchvision downloads (``root/flowers-102``)."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path

import numpy as np

from ffdr.data.files import damage_named, need_files
from ffdr.data.source import FileSource
from ffdr.util.errors import UserError
from ffdr.util.foreign import read_bytes

FOLDER = "flowers-102"
_NAMES = (
    "pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger lily, moon "
    "orchid, bird of paradise, monkshood, globe thistle, snapdragon, colt's foot, king protea, spear thistle, yellow "
    "iris, globe-flower, purple coneflower, peruvian lily, balloon flower, giant white arum lily, fire lily, "
    "pincushion flower, fritillary, red ginger, grape hyacinth, corn poppy, prince of wales feathers, stemless "
    "gentian, artichoke, sweet william, carnation, garden phlox, love in the mist, mexican aster, alpine sea holly, "
    "ruby-lipped cattleya, cape flower, great masterwort, siam tulip, lenten rose, barbeton daisy, daffodil, sword "
    "lily, poinsettia, bolero deep blue, wallflower, marigold, buttercup, oxeye daisy, common dandelion, petunia, "
    "wild pansy, primula, sunflower, pelargonium, bishop of llandaff, gaura, geranium, orange dahlia, pink-yellow "
    "dahlia?, cautleya spicata, japanese anemone, black-eyed susan, silverbush, californian poppy, osteospermum, "
    "spring crocus, bearded iris, windflower, tree poppy, gazania, azalea, water lily, rose, thorn apple, morning "
    "glory, passion flower, lotus, toad lily, anthurium, frangipani, clematis, hibiscus, columbine, desert-rose, tree "
    "mallow, magnolia, cyclamen, watercress, canna lily, hippeastrum, bee balm, ball moss, foxglove, bougainvillea, "
    "camellia, mallow, mexican petunia, bromelia, blanket flower, trumpet creeper, blackberry lily"
)
CLASSES = _NAMES.split(", ")
"""The flowers' names in order of their labels, as torchvision has them; the dataset's files have none."""
_SPLITS = {"train": "trnid", "val": "valid", "test": "tstid"}
"""Variable of setid.mat that lists the images (counted from 1) of a split."""
_MOST = 1 << 17
"""Bytes of a MATLAB file, which zlib may make a thousand times as many, and numbers of a variable. There are 8,189
images: one number for each, as doubles and not packed, has 64 KiB."""
_NUMBERS = {"double", "single"} | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
"""What MATLAB calls the kinds of its arrays of numbers."""


def open_split(path: Path, split: str) -> FileSource:
    """A split of Flowers-102: train, val (1,020 images each) or test (6,149)."""
    folder = need_files(path, FOLDER, ("jpg", "imagelabels.mat", "setid.mat"), "Flowers-102", "Flowers102")
    labels = _variable(folder / "imagelabels.mat", "labels") - 1
    images = _variable(folder / "setid.mat", _SPLITS[split])
    if not (len(images) and images.min() >= 1 and images.max() <= len(labels)):
        raise UserError(f"write.path: {folder}: setid.mat names images that imagelabels.mat does not have")
    labels = labels[images - 1]
    if not 0 <= labels.min() <= labels.max() < len(CLASSES):
        raise UserError(f"write.path: {folder}: imagelabels.mat has labels outside of 1 to {len(CLASSES)}")
    names = [f"jpg/image_{image:05d}.jpg" for image in images.tolist()]
    return FileSource(folder, names, labels, CLASSES)


def _variable(file: Path, name: str) -> np.ndarray:
    """A (N,) int64 variable of a MATLAB file."""
    from scipy.io import loadmat, whosmat

    content = BytesIO(read_bytes(file, _MOST))
    with damage_named(file, f"no readable variable {name}"):  # SciPy raises many kinds on a broken file
        # Looked at first: an array of cells is made as large as it says, however short its file is.
        for found, shape, kind in whosmat(content):
            if found == name and (kind not in _NUMBERS or math.prod(shape) > _MOST):
                raise ValueError(f"it is {'×'.join(map(str, shape))} of the kind {kind}")
        return loadmat(content, variable_names=[name])[name].astype(np.int64).reshape(-1)
