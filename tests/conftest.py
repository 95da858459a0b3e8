"""Small real betons that many tests share: handwritten digits (raw), photographs (JPEG), and reinforced versions."""

import os
import zlib

if len(os.sched_getaffinity(0)) < 2:  # tests ask for two decoding threads; Numba reads it when it is imported
    os.environ.setdefault("NUMBA_NUM_THREADS", "2")

import numpy as np
import pytest
import torch
from betons import PLAIN, TOPK, VIEWS, put, stored_of
from stock import make_pictures, write_stock

from ffdr.bench.corpus import make_photos
from ffdr.beton.header import ReinforcedHeader, effects_of
from ffdr.beton.read import ImageBeton
from ffdr.config.files import WriteOptions
from ffdr.config.learning import ModelOptions
from ffdr.models.build import ModelInfo, build_model, save_model
from ffdr.write.images import write_images
from ffdr.write.reinforced import ReinforcedWriter


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The models of these tests are tiny, and waiting for a second core costs more than it gives."""
    torch.set_num_threads(1)


@pytest.fixture
def graphs(monkeypatch):
    """Function that tells how many graphs torch.compile made since the test began, none of them with a break.

    Tracing is real; making machine code of it is PyTorch's own affair, so a plain backend stands in.
    """
    real = torch.compile

    def traced(function, mode=None, **settings):
        return real(function, backend="eager", **settings)

    monkeypatch.setattr(torch, "compile", traced)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()

    def count():
        assert not counters["graph_break"]
        return counters["stats"]["unique_graphs"]

    return count


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("betons")


@pytest.fixture(scope="session")
def digits(folder):
    """100 digits, 32×32, raw."""
    out = folder / "digits.beton"
    write_images(WriteOptions(source="digits", out=str(out), mode="raw", per_class=10, workers=1), progress=False)
    return out


@pytest.fixture(scope="session")
def photos(folder):
    """24 photographs, 250×188, JPEG."""
    make_photos(folder / "photos", 24, seed=1, width=250, height=188)
    out = folder / "photos.beton"
    options = WriteOptions(source="imagefolder", path=str(folder / "photos"), split="", out=str(out), workers=1)
    write_images(options, progress=False)
    return out


@pytest.fixture(scope="session")
def stock(tmp_path_factory):
    """A folder with a folder ``pictures``, and betons that stock FFCV made of it: in each of its modes (shrunk to 100
    pixels), the first and the second half of jpg.beton, named.beton whose fields have other names."""
    place = tmp_path_factory.mktemp("stock")
    pictures, names, shrunk = make_pictures(place / "pictures"), ("image", "label"), {"max_resolution": 100}
    modes = {
        "jpg": {"write_mode": "jpg"},
        "smart": {"write_mode": "smart", "smart_threshold": 20_000},
        "proportion": {"write_mode": "proportion", "compress_probability": 0.5},
    }
    halves = {"first": list(range(12)), "second": list(range(12, 24))}
    write_stock(
        *((place / f"{mode}.beton", pictures, names, options | shrunk, None) for mode, options in modes.items()),
        *((place / f"{half}.beton", pictures, names, modes["jpg"] | shrunk, part) for half, part in halves.items()),
        (place / "named.beton", pictures, ("x", "y"), shrunk, None),
    )
    return place


@pytest.fixture(scope="session")
def reinforce(folder):
    """Function (image beton, policy) → reinforced beton with real draws and made-up teacher outputs."""

    def make(path, policy, seed=3):
        out = folder / f"{path.stem}_{zlib.crc32(repr(policy).encode()):08x}_{seed}.beton"
        if not out.exists():
            _write_reinforced(ImageBeton.open(path), policy, seed, out)
        return out

    return make


@pytest.fixture(scope="session")
def reinforced_digits(digits, reinforce):
    return reinforce(digits, PLAIN)


@pytest.fixture(scope="session")
def teacher(folder):
    """NAME:CHECKPOINT of an untrained model for ten classes at 32 px."""
    torch.manual_seed(0)
    path = folder / "teacher.safetensors"
    info = ModelInfo("test_efficientnet", 10, 32, (0.3,) * 3, (0.35,) * 3)
    save_model(path, build_model(ModelOptions(name=info.name), 10, 32), info)
    return f"{info.name}:{path}"


def _write_reinforced(images, policy, seed, out):
    from ffdr.augment.draw import draw
    from ffdr.augment.view import record_dtype

    rng = np.random.default_rng(seed)
    header = ReinforcedHeader(
        num_images=images.num_images,
        views=VIEWS,
        topk=TOPK,
        num_classes=images.num_classes,
        mixes=policy.mixes,
        policy=policy.settings(),
        teachers=("made-up",),
        resolution=32,
        seed=seed,
        effects=effects_of(policy),
        fingerprint=images.fingerprint,
    )
    with ReinforcedWriter(out, header, images) as writer:
        for i in range(images.num_images):
            drawn = [draw(policy, seed, k, i, images.original_sizes) for k in range(VIEWS)]
            views = stored_of(np.array(drawn, record_dtype(True, policy.has_effects)), header.record_dtype)
            ids = np.array([rng.permutation(images.num_classes)[:TOPK] for _ in range(VIEWS)], np.uint16)
            probs = -np.sort(-rng.dirichlet(np.ones(TOPK + 1), VIEWS)[:, :TOPK], axis=1)
            put(writer, i, views, ids, np.log(probs).astype(np.float16))
        writer.finish()
