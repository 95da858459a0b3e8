"""How image files become pixels, against Pillow: modes, depths and formats; files that can't be read."""

import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from jpegs import costly_scans
from PIL import Image

from ffdr.data import ReadError, open_source

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (9, 14, 3), np.uint8)


MODES = {
    "cmyk.jpg": lambda: Image.fromarray(RNG.integers(0, 256, (9, 14, 4), np.uint8), "CMYK"),
    "grey.jpg": lambda: Image.fromarray(NOISE[..., 0]),
    "grey.png": lambda: Image.fromarray(NOISE[..., 0]),
    "palette.png": lambda: Image.fromarray(NOISE).convert("P"),
    "palette.bmp": lambda: Image.fromarray(NOISE).convert("P"),
    "rgba.png": lambda: Image.fromarray(RNG.integers(0, 256, (9, 14, 4), np.uint8), "RGBA"),
    "rgba.webp": lambda: Image.fromarray(RNG.integers(0, 256, (9, 14, 4), np.uint8), "RGBA"),
    "la.png": lambda: Image.fromarray(NOISE).convert("LA"),
    "bits.png": lambda: Image.fromarray(NOISE).convert("1"),
    "grey.tif": lambda: Image.fromarray(NOISE[..., 0]),
    "rgb.ppm": lambda: Image.fromarray(NOISE),
}


@pytest.mark.parametrize("name", MODES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_mode_becomes_what_pillow_makes_of_it(tmp_path, name):
    (tmp_path / "a").mkdir()
    MODES[name]().save(tmp_path / "a" / name)
    source = open_source("imagefolder", str(tmp_path), "")
    image = source.read(0)
    assert image.mode == "RGB"
    assert np.array_equal(image, Image.open(tmp_path / "a" / name).convert("RGB"))


SIXTEEN = RNG.integers(0, 65536, (9, 14)).astype(np.uint16)


def big_endian_tiff(path):
    """Uncompressed, 16 bits, one strip, the most significant byte first."""
    height, width = SIXTEEN.shape
    tags = ((256, width), (257, height), (258, 16), (259, 1), (262, 1), (273, 122), (277, 1), (278, height))
    tags = (*tags, (279, SIXTEEN.nbytes))
    head = b"MM\0*" + struct.pack(">IH", 8, len(tags)) + b"".join(struct.pack(">HHIHH", t, 3, 1, v, 0) for t, v in tags)
    path.write_bytes(head.ljust(122, b"\0") + SIXTEEN.astype(">u2").tobytes())


def ppm(path, most):
    path.write_bytes(b"P5 14 9 %d\n" % most + (SIXTEEN.astype(np.int64) * most // 65535).astype(">u2").tobytes())


GREY = {
    "16.png": (lambda path: Image.fromarray(SIXTEEN).save(path), SIXTEEN >> 8),
    "16.tif": (lambda path: Image.fromarray(SIXTEEN).save(path), SIXTEEN >> 8),
    "16 of Motorola's.tif": (big_endian_tiff, SIXTEEN >> 8),
    "16.pgm": (lambda path: ppm(path, 65535), SIXTEEN >> 8),
    "10.pgm": (lambda path: ppm(path, 1023), np.rint(SIXTEEN.astype(np.int64) * 1023 // 65535 / 1023 * 65535) // 256),
}


@pytest.mark.parametrize("name", GREY)
def test_grey_of_16_bits_keeps_its_high_byte(tmp_path, name):
    """As Pillow has it for 16-bit colour; its own conversion makes almost all of it white."""
    save, want = GREY[name]
    (tmp_path / "a").mkdir()
    save(tmp_path / "a" / name)
    assert np.array_equal(open_source("imagefolder", str(tmp_path), "").read(0), np.stack([want] * 3, axis=2))


def test_grey_and_colour_of_16_bits_look_the_same(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(SIXTEEN).save(tmp_path / "a" / "grey.png")
    rows = np.stack([SIXTEEN] * 3, axis=2).astype(">u2")
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = (b"IHDR", struct.pack(">IIBBBBB", 14, 9, 16, 2, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")
    chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    (tmp_path / "a" / "colour.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    source = open_source("imagefolder", str(tmp_path), "")
    assert np.array_equal(source.read(0), source.read(1))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_grey_of_32_bits_is_refused(tmp_path, kind):
    (tmp_path / "a").mkdir()
    Image.fromarray(SIXTEEN.astype(kind)).save(tmp_path / "a" / "x.tif")
    with pytest.raises(ReadError, match=r"a/x\.tif: ValueError: grey pixels of 32 bits .* no known range"):
        open_source("imagefolder", str(tmp_path), "").read(0)


def test_progressive_gif_and_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees; torchvision ignores it
    (tmp_path / "a").mkdir()
    Image.fromarray(NOISE).save(tmp_path / "a" / "1.jpg", exif=exif)
    Image.fromarray(NOISE).save(tmp_path / "a" / "2.jpg", progressive=True)
    Image.fromarray(NOISE).convert("P").save(tmp_path / "a" / "3.png", format="GIF")
    source = open_source("imagefolder", str(tmp_path), "")
    for i in range(3):
        assert source.read(i).size == (14, 9)
        assert np.array_equal(source.read(i), Image.open(tmp_path / source.root / source.origin(i)).convert("RGB"))


@pytest.mark.parametrize("kind", ["EPS", "PCX", "TGA", "ICO", "JPEG2000"])
def test_other_formats_under_an_images_name_meet_no_decoder(tmp_path, kind):
    """Such as PostScript, which Pillow hands to another program."""
    (tmp_path / "a").mkdir()
    Image.fromarray(NOISE).save(tmp_path / "a" / "0.jpg", format=kind)
    with pytest.raises(ReadError, match=r"UnidentifiedImageError: cannot identify image file$"):
        open_source("imagefolder", str(tmp_path), "").read(0)


def test_unreadable_images_name_path_and_cause(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("1.png", "2.png"):
        Image.fromarray(NOISE).save(tmp_path / "a" / name)
    (tmp_path / "a" / "0.jpg").write_bytes(b"no image at all")
    data = (tmp_path / "a" / "1.png").read_bytes()
    (tmp_path / "a" / "1.png").write_bytes(data[: len(data) // 2])
    source = open_source("imagefolder", str(tmp_path), "")
    for i, cause in ((0, "cannot identify"), (1, "truncated")):
        with pytest.raises(ReadError, match=cause) as caught:
            source.read(i)
        copy = pickle.loads(pickle.dumps(caught.value))
        assert copy.origin == caught.value.origin == source.origin(i)
        assert copy.cause == caught.value.cause
        assert str(caught.value).startswith(f"{tmp_path / 'a' / Path(source.origin(i)).name}: ")
        assert str(tmp_path) not in caught.value.cause and "<" not in caught.value.cause
    (tmp_path / "a" / "2.png").unlink()
    with pytest.raises(ReadError, match="No such file"):
        source.read(2)


def test_a_jpeg_of_scan_upon_scan_is_refused(tmp_path):
    """22 KB of them held Pillow for ten seconds, a megabyte for minutes."""
    (tmp_path / "a").mkdir()
    for i, scans in enumerate((30, 450)):
        (tmp_path / "a" / f"{i}.jpg").write_bytes(costly_scans(1024, scans))
    source = open_source("imagefolder", str(tmp_path), "")
    assert source.read(0).size == (1024, 1024)
    with pytest.raises(ReadError, match="more scans than its bytes and its pixels explain"):
        source.read(1)
