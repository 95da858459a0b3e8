"""Image betons of coefficients: what is kept, how it is counted, resumed, refused and found damaged."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from ffcv.fields.decoders import RandomResizedCropRGBImageDecoder, SimpleRGBImageDecoder
from ffcv.loader import Loader
from ffcv.pipeline.pipeline_spec import PipelineSpec
from ffcv.reader import Reader
from jpegs import KINDS, make_files, picture, pixels_of, rewrite
from PIL import Image

from ffdr.beton.fields import custom_fields
from ffdr.beton.layout import DCT
from ffdr.beton.manifest import manifest_path
from ffdr.beton.read import ImageBeton
from ffdr.beton.tables import read_tables
from ffdr.codec.dct import learn
from ffdr.codec.dct.format import SAMPLING_NAMES
from ffdr.codec.dct.pack import unpack
from ffdr.codec.jpeg import coefficients
from ffdr.codec.jpeg.segments import encode_jpeg
from ffdr.codec.jpeg.write import write_jpeg
from ffdr.config.files import VerifyOptions, WriteOptions
from ffdr.inspect.statistics import image_facts
from ffdr.util.errors import UserError
from ffdr.write import partial
from ffdr.write.images import write_images
from ffdr.write.verify import verify


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two images of each kind."""
    return make_files(tmp_path_factory.mktemp("kinds") / "files", copies=2)


def options(files, out, **changes):
    basic = WriteOptions(
        source="imagefolder", path=str(files), split="", out=str(out / "x.beton"), workers=1, mode="dct"
    )  # fmt: skip
    return replace(basic, **changes)


def written(files, out, **changes):
    return ImageBeton.open(write_images(options(files, out, **changes), progress=False))


@pytest.fixture(scope="module")
def beton(files, tmp_path_factory):
    return written(files, tmp_path_factory.mktemp("dct"))


@pytest.fixture
def copy(beton, tmp_path):
    shutil.copy(beton.path, tmp_path / "c.beton")
    shutil.copy(manifest_path(beton.path), tmp_path / "c.json")
    return tmp_path / "c.beton"


def coefficients_of(beton, i):
    return unpack(beton.data(i), beton.coding, *beton.sizes[i].tolist())


def test_coefficients_are_those_of_the_files(files, beton):
    """As a JPEG they have the very pixels of the file; what can't be kept has those of a JPEG of its pixels."""
    assert (beton.modes == DCT).all()
    paths = sorted(files.glob("a/*"))
    samplings = []
    for i, path in enumerate(paths):
        kind = path.stem.split("-")[1]
        found = coefficients_of(beton, i)
        expected = pixels_of(path.read_bytes())
        if KINDS[kind][0] not in ("kept", "transformed"):
            expected = pixels_of(encode_jpeg(expected, 90))
        assert np.array_equal(pixels_of(write_jpeg(found)), expected), path
        assert beton.is_intact(i)
        samplings.append(SAMPLING_NAMES[found.sampling])
    assert samplings[:4] == ["4:2:0", "4:2:2", "4:4:4", "grey"]
    assert set(samplings[4:9]) == {"4:2:0"}


def test_manifest_counts_how_they_were_had(beton):
    counts = dict.fromkeys(coefficients.HOW, 0)
    for way, _ in KINDS.values():
        counts[way] += 2
    assert beton.manifest["coefficients"] == {way: count for way, count in counts.items() if count}
    assert beton.manifest["jpeg_images"] == 0
    assert beton.manifest["image_bytes"] == beton.data_size.sum()


def test_mean_and_fingerprint_are_those_of_other_modes(files, beton, tmp_path):
    raw = written(files, tmp_path, mode="raw")
    assert (raw.mean, raw.std, raw.fingerprint) == (beton.mean, beton.std, beton.fingerprint)
    assert raw.coding is None
    assert "coefficients" not in raw.manifest


def test_shrunk_images_are_encoded_from_pixels(files, tmp_path):
    beton = written(files, tmp_path, max_resolution=40, quality=80)
    assert beton.manifest["coefficients"] == {"shrunk": len(beton)}
    assert {tuple(size) for size in beton.sizes.tolist()} == {(40, 29)}
    small = Image.open(next(iter(sorted(files.glob("a/*"))))).resize((40, 29), Image.Resampling.LANCZOS)
    expected = pixels_of(encode_jpeg(np.asarray(small), 80))
    assert np.array_equal(pixels_of(write_jpeg(coefficients_of(beton, 0))), expected)
    kept = written(files, tmp_path / "kept", max_resolution=83)
    assert kept.manifest["coefficients"]["kept"] == 8


def test_bytes_do_not_depend_on_workers(files, beton, tmp_path):
    two = written(files, tmp_path, workers=2)
    assert two.path.read_bytes() == beton.path.read_bytes()
    assert manifest_path(two.path).read_bytes() == manifest_path(beton.path).read_bytes()


def interrupt(monkeypatch, after):
    original, calls = partial.Partial.commit, []

    def commit(self, record):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(1)
        original(self, record)

    monkeypatch.setattr(partial.Partial, "commit", commit)


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_interrupted_write_resumes(files, beton, tmp_path, monkeypatch, after):
    """Before the identity, the coding, the first and the second portion are in the journal."""
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupt(patched, after)
        write_images(options(files, tmp_path), progress=False)
    calls, original = [], learn.learn
    monkeypatch.setattr(learn, "learn", lambda samples: calls.append(1) or original(samples))
    assert written(files, tmp_path).path.read_bytes() == beton.path.read_bytes()
    assert len(calls) == (1 if after < 2 else 0)


def test_unreadable_images_do_not_stop_the_codebooks(files, beton, tmp_path):
    folder = tmp_path / "files"
    shutil.copytree(files, folder)
    first = min(folder.glob("a/*"))
    first.write_bytes(b"\xff\xd8 not much of a JPEG")
    with pytest.raises(UserError, match=r"000-420.jpg: can't be read"):
        written(folder, tmp_path)
    few = written(folder, tmp_path, on_error="skip")
    assert len(few) == len(beton) - 1
    assert few.manifest["coefficients"]["kept"] == 7


def test_tiles_are_not_seen(monkeypatch):
    pixels = picture(3, 200, 110)
    whole = coefficients.from_pixels(pixels, 90)
    monkeypatch.setattr(coefficients, "_TILE", 48)
    tiled = coefficients.from_pixels(pixels, 90)
    assert (tiled.width, tiled.height, tiled.sampling) == (200, 110, whole.sampling)
    for one, other in zip(tiled.planes, whole.planes, strict=True):
        assert np.array_equal(one, other)


def test_images_larger_than_libjpeg_takes(tmp_path):
    (tmp_path / "files/a").mkdir(parents=True)
    pixels = np.tile(picture(5, 64, 21), (1, 1024, 1))[:, :65535]
    Image.fromarray(pixels).save(tmp_path / "files/a/long.png")
    beton = written(tmp_path / "files", tmp_path)
    found = coefficients_of(beton, 0)
    assert found.planes[0].shape[:2] == (3, 8192)
    assert np.array_equal(found.planes[0][:, 8:16], found.planes[0][:, 8176:8184])  # 64 pixels repeat


def test_stock_ffcv_refuses_it(beton):
    with pytest.raises(ValueError, match="custom field image"):
        Reader(str(beton.path))
    reader = Reader(str(beton.path), custom_fields(beton))
    assert reader.metadata["f0"]["data_ptr"].tolist() == beton.data_ptr.tolist()
    assert reader.metadata["f0"]["packed_width"].tolist() == beton.sizes[:, 0].tolist()
    assert reader.handlers["image"].from_binary(reader.handlers["image"].to_binary()[0]).arguments
    arguments = {"batch_size": 4, "num_workers": 1, "custom_fields": custom_fields(beton)}
    with pytest.raises(UserError, match="can't decode coefficient images"):
        Loader(str(beton.path), **arguments)
    for decoder in (SimpleRGBImageDecoder(), RandomResizedCropRGBImageDecoder((8, 8))):
        with pytest.raises(ValueError, match="no field of name"):
            Loader(str(beton.path), pipelines={"image": PipelineSpec("image", decoder=decoder)}, **arguments)


def test_damage_of_the_coding_is_named(copy, capsys):
    good = bytearray(copy.read_bytes())
    start = good.index(b"FFDRDCT1", int(read_tables(copy).pointers[-1]))
    size = int.from_bytes(good[start + 8 : start + 16], "little")
    end = start + 16 + size + -size % 8
    for at in (start, start + 8, start + 16, start + 700, end - 1):
        data = bytearray(good)
        data[at] ^= 4
        copy.write_bytes(data)
        with pytest.raises(UserError, match=r"damage in its .* metadata, coding, origin index, or"):
            ImageBeton.open(copy)
    for at, text in ((24 + 17, "its arguments are damaged"), (24 + 17 + 8, "."), (24 + 17 + 14, "damaged")):
        data = bytearray(good)
        data[at] ^= 4
        copy.write_bytes(data)
        with pytest.raises(UserError, match=text):
            ImageBeton.open(copy)
    assert verify(VerifyOptions(str(copy)), progress=False) == 1
    assert "damaged" in capsys.readouterr().out


def test_hostile_codings_and_tables_are_refused(beton, copy):
    good, coding = copy.read_bytes(), beton.coding.pack()
    for bad, text in (
        (b"\xff" * len(coding), "coding: "),
        (coding[:-1], "coding: "),
        (coding + bytes(300), "coding: "),
    ):
        rewrite(copy, lambda data, metadata: None, bad)
        with pytest.raises(UserError, match=text):
            ImageBeton.open(copy)
        copy.write_bytes(good)
    for name, value, text in (("mode", 3, "neither .* nor 2"), ("height", 60000, "more pixels than coeff")):
        rewrite(copy, lambda data, metadata: metadata["image"][name].__setitem__(5, value))  # noqa: B023
        with pytest.raises(UserError, match=f"sample 5: .*{text}"):
            ImageBeton.open(copy)
        copy.write_bytes(good)


def test_no_coefficient_images_without_a_coding(files, tmp_path):
    raw = written(files, tmp_path, mode="raw")
    rewrite(raw.path, lambda data, metadata: metadata["image"]["mode"].__setitem__(2, DCT))
    with pytest.raises(UserError, match=r"sample 2: .* neither 0 \(JPEG\) nor 1 \(raw\)$"):
        ImageBeton.open(raw.path)


def test_verify_reads_coefficient_images(beton, copy, capsys):
    assert verify(VerifyOptions(str(copy)), progress=False) == 0
    images = ImageBeton.open(copy)

    def shorten(data, metadata):
        data[int(images.data_ptr[7]) + 8] ^= 1  # the first row's length

    rewrite(copy, shorten)
    assert verify(VerifyOptions(str(copy)), progress=False) == 1
    out = capsys.readouterr().out
    assert "damaged: 1 of 18 samples" in out
    assert "sample 7: coefficients: " in out


def test_inspect_tells_samplings_and_bytes(beton):
    facts = image_facts(beton)
    assert facts["modes"] == {"dct": 18}
    packed = facts["packed"]
    assert packed["samplings"] == {"4:2:0": 12, "4:2:2": 2, "4:4:4": 2, "grey": 2}
    assert packed["bytes"] == beton.data_size.sum()
    assert packed["coding_bytes"] == len(beton.coding.pack())
    assert packed["quantisation_sets"] == len(beton.coding.quant) > 1
    assert packed["own_quantisation"] == 0
