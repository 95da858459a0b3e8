"""Stock FFCV reads what ffdr writes, in a process that never imports ffdr; ffdr reads what stock FFCV writes."""

import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
from betons import put
from ffcv import types as ffcv_types
from ffcv.fields import NDArrayField

from ffdr.augment.policy import Policy
from ffdr.augment.view import VIEW_DTYPE
from ffdr.beton import layout
from ffdr.beton.fields import FIELDS, AugParamsField, LogitsField, custom_fields
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import IMAGENET_MEAN, ImageBeton, ReinforcedBeton
from ffdr.config.files import WriteOptions
from ffdr.util.errors import UserError
from ffdr.write.images import write_images
from ffdr.write.parts import IMAGE_SPECS
from ffdr.write.reinforced import ReinforcedWriter

STOCK = """
import os
import sys
from pathlib import Path
import numpy as np
from ffcv.fields import FloatField, IntField, RGBImageField
from ffcv.fields.decoders import IntDecoder, NDArrayDecoder, RandomResizedCropRGBImageDecoder, SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.writer import DatasetWriter

folder = Path(sys.argv[1])

class Noise:
    def __len__(self):
        return 150

    def __getitem__(self, i):
        rng = np.random.default_rng(i)
        return i / 2, i % 7, rng.integers(0, 256, (20 + i % 3, 30, 3), np.uint8)

def read(name, os_cache, decoder):
    loader = Loader(
        str(folder / name), batch_size=50, num_workers=2, os_cache=os_cache, order=OrderOption.SEQUENTIAL,
        drop_last=False, pipelines={"image": [decoder], "label": [IntDecoder()], "origin": [NDArrayDecoder()]},
    )
    parts = [[np.array(part) for part in batch] for batch in loader]
    images, labels = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    # The stock decoder of arrays hands out the whole buffer even in a short last batch.
    origins = np.concatenate([part[2][: len(part[0])] for part in parts])
    return {"images": images, "labels": labels, "origins": origins}

if __name__ == "__main__":
    for mode in ("jpg", "raw"):
        fields = {"weight": FloatField(), "label": IntField(), "image": RGBImageField(write_mode=mode)}
        writer = DatasetWriter(str(folder / f"stock_{mode}.beton"), fields, num_workers=2)
        writer.from_indexed_dataset(Noise(), chunksize=20)
    np.savez(folder / "mixed.npz", **read("mixed.beton", True, SimpleRGBImageDecoder()))
    np.savez(folder / "paged.npz", **read("mixed.beton", False, SimpleRGBImageDecoder()))
    np.savez(folder / "crops.npz", **read("mixed.beton", True, RandomResizedCropRGBImageDecoder((16, 16))))
    assert not [name for name in sys.modules if name.split(".")[0] == "ffdr"]
    os._exit(0)  # on one core Numba's TBB would wait for ever at the end
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A beton of ours, digits as JPEG and raw mixed, and what stock FFCV makes of it; two betons of stock FFCV."""
    folder = tmp_path_factory.mktemp("stock")
    options = WriteOptions(source="digits", out=str(folder / "mixed.beton"), mode="proportion", per_class=12, workers=1)
    write_images(options, progress=False)
    (folder / "stock.py").write_text(STOCK)
    run = subprocess.run(
        [sys.executable, "stock.py", str(folder)], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", ["mixed", "paged"])
def test_stock_loader_reads_images_labels_and_origins(folder, name):
    beton, found = ImageBeton.open(folder / "mixed.beton"), np.load(folder / f"{name}.npz")
    assert set(beton.modes) == {layout.JPG, layout.RAW}
    for i, image in enumerate(found["images"]):
        # FFCV asks libjpeg for its fast inverse DCT, ffdr for the accurate one.
        assert np.abs(image.astype(int) - decode_image(beton, i)).max() <= (8 if beton.modes[i] == layout.JPG else 0)
    assert np.array_equal(found["labels"].ravel(), beton.labels)
    assert np.array_equal(found["origins"], beton.origins)


def test_stock_random_resized_crop_reads_it(folder):
    found = np.load(folder / "crops.npz")
    assert found["images"].shape == (120, 16, 16, 3)
    assert found["images"].std() > 40


@pytest.mark.parametrize("mode", ["jpg", "raw"])
def test_betons_of_the_stock_writer_open(folder, mode):
    beton = ImageBeton.open(folder / f"stock_{mode}.beton")
    assert beton.field_names == ("weight", "label", "image")
    assert beton.labels.tolist() == [i % 7 for i in range(150)]
    assert beton.num_classes == 7
    assert beton.mean == IMAGENET_MEAN
    assert beton.manifest is None
    assert beton.origins.tolist() == [[30, 20 + i % 3, i] for i in range(150)]
    for i in range(150):
        pixels = np.random.default_rng(i).integers(0, 256, (20 + i % 3, 30, 3), np.uint8)
        if mode == "raw":
            assert np.array_equal(decode_image(beton, i), pixels)
        else:
            assert decode_image(beton, i).shape == pixels.shape
            assert beton.data(i)[-2:].tobytes() == b"\xff\xd9"


def test_layout_is_ffcvs():
    assert ffcv_types.HeaderType == layout.HEADER_DTYPE
    assert ffcv_types.ALLOC_TABLE_TYPE == layout.ALLOC_DTYPE
    assert ffcv_types.CURRENT_VERSION == layout.VERSION
    assert [ffcv_types.FieldDescType[name] for name in ("type_id", "arguments")] == [
        layout.FIELD_DTYPE[name] for name in ("type_id", "arguments")
    ]
    assert ffcv_types.FieldDescType.itemsize == layout.FIELD_DTYPE.itemsize
    for type_id, kind in ffcv_types.TYPE_ID_HANDLER.items():
        if kind is not None:
            field = kind.__new__(kind)
            assert field.metadata_type == layout.METADATA[type_id]
    origin = NDArrayField(np.dtype("int64"), (3,)).to_binary()[0].tobytes()
    assert IMAGE_SPECS[2].pack()[17:] == origin


def reinforce(path, images, views=2):
    header = ReinforcedHeader(
        views=views,
        topk=4,
        num_classes=10,
        num_images=images.num_images,
        fingerprint=images.fingerprint,
        mixes=False,
        policy=asdict(Policy()),
        teachers=("made-up",),
        resolution=32,
        seed=0,
    )
    rng = np.random.default_rng(0)
    with ReinforcedWriter(path, header, images) as writer:
        for i in range(images.num_images):
            records = np.frombuffer(rng.bytes(views * VIEW_DTYPE.itemsize), VIEW_DTYPE)
            ids = np.array([rng.permutation(10)[:4] for _ in range(views)], np.uint16)
            put(writer, i, records, ids, -np.sort(rng.random((views, 4))).astype(np.float16))
        writer.finish()
    return ReinforcedBeton.open(path, images)


def test_loader_reads_reinforced_betons_with_custom_fields(folder):
    """Ours is the subject here, so FFCV runs without compiling."""
    from ffcv.loader import Loader, OrderOption
    from ffcv.pipeline.compiler import Compiler

    beton = reinforce(folder / "reinforced.beton", ImageBeton.open(folder / "mixed.beton"))
    Compiler.set_enabled(False)
    try:
        loader = Loader(
            str(beton.path), batch_size=40, num_workers=1, order=OrderOption.SEQUENTIAL, custom_fields=FIELDS
        )
        batches = [[part.numpy().copy() for part in batch] for batch in loader]
    finally:
        Compiler.set_enabled(True)
    views, logits = (np.concatenate(part) for part in zip(*batches, strict=True))
    assert views.shape == (120, 2 * 24)
    assert logits.shape == (120, 2 * 16)
    for i in range(120):
        assert views[i].tobytes() == beton.views(i).tobytes()
        ids, log_probs = beton.logits(i)
        assert logits[i].tobytes() == np.concatenate([ids, log_probs.view("<u2")], axis=1).tobytes()


def test_fields_round_trip_and_encode(folder):
    images = ImageBeton.open(folder / "mixed.beton")
    beton = reinforce(folder / "again.beton", images)
    for kind, size in ((AugParamsField, 48), (LogitsField, 32)):
        field = kind(beton.header)
        assert kind.from_binary(field.to_binary()[0]).header == beton.header
        destination, storage = np.zeros(1, field.metadata_type), np.zeros(size, np.uint8)
        field.encode(destination, np.arange(size, dtype=np.uint8), lambda n, storage=storage: (4096, storage[:n]))
        assert destination[0] == 4096
        assert storage.tolist() == list(range(size))
        with pytest.raises(ValueError, match="bytes, not"):
            field.encode(destination, np.zeros(5, np.uint8), lambda n: (0, np.zeros(n, np.uint8)))
    with pytest.raises(UserError, match="not written by ffdr"):
        LogitsField.from_binary(np.zeros(1024, np.uint8))
    assert custom_fields(images) == {}


def test_importing_the_loader_compiles_nothing():
    """FFCV's own import compiles a dictionary; ours leaves Numba as it was, and FFCV with the same numbers."""
    code = """
from numba.core import event
import numba.typed
real = numba.typed.Dict
with event.install_recorder("numba:compile") as listener:
    import ffdr.loader.loader
from ffcv.fields.rgb_image import IMAGE_MODES
assert not listener.buffer, len(listener.buffer)
assert numba.typed.Dict is real
assert dict(IMAGE_MODES) == {"jpg": 0, "raw": 1}
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]


def test_betons_of_the_stock_writer_are_transcoded_and_back(folder):
    """Coefficients are kept; a manifest there was none, and is none."""
    from ffdr.codec.jpeg.read import read_jpeg
    from ffdr.config.files import TranscodeOptions
    from ffdr.write.copy.transcode import transcode

    path = folder / "stock_jpg.beton"
    for name in ("there", "back"):
        options = TranscodeOptions(str(path), str(folder / f"{name}.beton"), workers=1)
        path = transcode(options, progress=False)
    before, there, back = (ImageBeton.open(folder / f"{name}.beton") for name in ("stock_jpg", "there", "back"))
    assert (there.modes == layout.DCT).all()
    assert before.fingerprint == there.fingerprint == back.fingerprint
    assert back.manifest is None
    for i in range(150):
        one, other = read_jpeg(before.data(i))[0], read_jpeg(back.data(i))[0]
        assert all(np.array_equal(*planes) for planes in zip(one.planes, other.planes, strict=True))
        assert np.array_equal(decode_image(back, i), decode_image(before, i))
