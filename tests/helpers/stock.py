"""Betons that stock FFCV has written, as its own ImageNet script does: torchvision's ImageFolder through its writer."""

import json
import subprocess
import sys

from PIL import Image

from ffdr.bench.corpus import make_photos

_SCRIPT = """
import json, os, sys
import numba.typed
numba.typed.Dict = dict  # spares the import of FFCV its compiling
from ffcv.fields import IntField, RGBImageField
from ffcv.writer import DatasetWriter
from torchvision.datasets import ImageFolder

if __name__ == "__main__":
    for path, folder, names, options, indices in json.loads(sys.argv[1]):
        fields = {names[0]: RGBImageField(**options), names[1]: IntField()}
        writer = DatasetWriter(path, fields, num_workers=2 if indices is None else 1)
        writer.from_indexed_dataset(ImageFolder(folder), indices, chunksize=5)
    assert not [name for name in sys.modules if name.split(".")[0] == "ffdr"]
    os._exit(0)  # on one core Numba's TBB would wait for ever at the end
"""


def write_stock(*wanted):
    """Write several betons in one process. wanted: (path, folder, fields' names, RGBImageField's options, indices)."""
    words = [(str(path), str(folder), names, options, indices) for path, folder, names, options, indices in wanted]
    command = [sys.executable, "-c", _SCRIPT, json.dumps(words)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]


def make_pictures(folder):
    """24 JPEGs of ten classes, no two of one size, wide ones and high ones."""
    for number, path in enumerate(sorted(make_photos(folder, 24, seed=7, width=200, height=150).rglob("*.jpg"))):
        with Image.open(path) as picture:
            size = (90 + 5 * number, 230 - 7 * number)
            picture.resize(size).save(path, quality=95)
    return folder
