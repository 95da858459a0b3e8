"""The scripts of docs/examples: small files to run them on, and how a test runs one."""

import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from betons import put

from ffdr.augment.draw import draw
from ffdr.augment.policy import Policy
from ffdr.augment.view import VIEW_DTYPE
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.read import ImageBeton
from ffdr.config.files import WriteOptions
from ffdr.loader.loader import ReinforcedLoader
from ffdr.write.images import write_images
from ffdr.write.reinforced import ReinforcedWriter

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
POLICY = Policy(scale=(0.5, 1.0), flip=0.0)
"""Of the views in ``ExampleFiles.reinforced``."""
VIEWS, TOPK = 6, 3


class ExampleFiles(NamedTuple):
    """What an example learns from: handwritten digits, 32×32, raw, ten classes."""

    images: Path
    """300 images, 30 of each class"""
    reinforced: Path
    """six views of each with a made-up teacher's three best classes: it is sure of the right one"""
    val: Path
    """200 other images"""


def make_files(folder: Path) -> ExampleFiles:
    """Write them into an empty folder."""
    files = ExampleFiles(*(folder / f"{name}.beton" for name in ("train", "train+", "val")))
    for path, split, per_class in ((files.images, "train", 30), (files.val, "test", 20)):
        options = WriteOptions("digits", split=split, out=str(path), mode="raw", per_class=per_class, workers=1)
        write_images(options, progress=False)
    _reinforce(ImageBeton.open(files.images), files.reinforced)
    return files


def run_example(name: str, *args: object, timeout: float = 400, watch: Path | None = None, processes: int = 1) -> str:
    """What docs/examples/NAME.py prints, run as a command in a folder that goes away; it must end well.

    watch: a .npy file that gets what the model of timm was shown while it was trained, (B, 3, H, W) in order; of
    several processes each has its rank before the name. processes: how many torchrun starts, on the CPU.
    """
    script = str(EXAMPLES / f"{name}.py")
    command = [script] if watch is None else [str(Path(__file__).parent / "watched_example.py"), str(watch), script]
    if processes > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [*torchrun, *command]
    here = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "1"}
    command, environment = [sys.executable, *command, *map(str, args)], {**os.environ, **here}
    with TemporaryDirectory() as folder:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, cwd=folder)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def number(output: str, name: str) -> float:
    """The number behind ``name:`` in what an example printed, the last time it did."""
    found = re.findall(rf"^{re.escape(name)}: ([-+.\de]+)", output, re.M)
    assert found, output
    return float(found[-1])


def loader_views(files: ExampleFiles, epoch: int, batch_size: int, **options: object) -> np.ndarray:
    """What ``ReinforcedLoader`` shows in an epoch, in its order, at 32 px: (B, 3, 32, 32) float32, normalised."""
    loader = ReinforcedLoader(
        files.images, files.reinforced, batch_size=batch_size, resolution=32, workers=1, **options
    )
    loader.set_epoch(epoch)
    return np.concatenate([images.numpy() for images, _, _ in loader])


def sorted_views(views: np.ndarray) -> list[bytes]:
    """(B, …) views in an order of their own, to be compared whatever order they came in."""
    return sorted(view.tobytes() for view in views)


def _reinforce(images: ImageBeton, out: Path) -> None:
    """Real draws, and log-probabilities that favour the label: about 0.8 of it."""
    rng = np.random.default_rng(0)
    header = ReinforcedHeader(
        num_images=images.num_images,
        views=VIEWS,
        topk=TOPK,
        num_classes=images.num_classes,
        mixes=False,
        policy=asdict(POLICY),
        teachers=("made-up",),
        resolution=32,
        seed=0,
        fingerprint=images.fingerprint,
    )
    with ReinforcedWriter(out, header, images) as writer:
        for i, label in enumerate(images.labels):
            drawn = [draw(POLICY, 0, k, i, images.original_sizes)["first"] for k in range(VIEWS)]
            others = np.array([rng.permutation(np.delete(np.arange(10), label))[: TOPK - 1] for _ in range(VIEWS)])
            ids = np.column_stack([np.full(VIEWS, label), others]).astype(np.uint16)
            probs = np.column_stack([rng.uniform(0.7, 0.9, VIEWS), np.tile([0.05, 0.02], (VIEWS, 1))])
            put(writer, i, np.array(drawn, VIEW_DTYPE), ids, np.log(probs).astype(np.float16))
        writer.finish()
