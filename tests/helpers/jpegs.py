"""A folder of images of all kinds that JPEGs come in, and betons that are changed by hand."""

import io
import zlib

import cv2
import numpy as np
from PIL import Image

from ffdr.beton import layout
from ffdr.beton.read import ImageBeton
from ffdr.beton.tables import read_tables

KINDS = {
    "420": ("kept", {"subsampling": 2}),
    "422": ("kept", {"subsampling": 1}),
    "444": ("kept", {"subsampling": 0}),
    "grey": ("kept", {}),
    "progressive": ("transformed", {"progressive": True}),
    "cmyk": ("unsupported JPEG", {}),
    "440": ("unsupported JPEG", None),
    "damaged": ("damaged JPEG", {}),
    "png": ("no JPEG", None),
}
"""File name → how its coefficients are had, Pillow's options. In this order the images are, too."""


def picture(seed, width=83, height=61):
    """(H, W, 3) uint8: waves and some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(3, 20) + y / rng.uniform(3, 20) + c) for c in range(3)]
    pixels = 128 + 90 * np.stack(waves, axis=2) + rng.normal(0, 8, (height, width, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def segment(marker, body):
    """A marker segment of a JPEG."""
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + bytes(body)


def many_scans(count):
    """A valid progressive JPEG of 8×8 grey pixels in so many scans, each of one bit of one coefficient."""

    def scan(first, high, low):
        return segment(0xDA, [1, 1, 0, first, first, high << 4 | low]) + b"\x7f"  # code 0, and ones to fill the byte

    only_zero = [1] + [0] * 15 + [0]  # a table with one code, of one bit, for symbol 0: no difference, or end of block
    bits = [(at, 0 if low == 13 else low + 1, low) for low in range(13, -1, -1) for at in range(1, 64)]
    return b"".join((
        b"\xff\xd8", segment(0xDB, [0] + [1] * 64), segment(0xC2, [8, 0, 8, 0, 8, 1, 1, 0x11, 0]),
        segment(0xC4, [0, *only_zero]), segment(0xC4, [0x10, *only_zero]), scan(0, 0, 0),
        *(scan(*bit) for bit in bits[: count - 1]), b"\xff\xd9",
    ))  # fmt: skip


def costly_scans(side, count):
    """A progressive JPEG of side × side grey pixels whose scans but the first take a few bytes each."""
    blocks = (side // 8) ** 2
    runs = (
        "".join("0" + "1" * 14 for _ in range(blocks // 32767))
        + "0"
        + f"{max(blocks % 32767, 1 << 14) - (1 << 14):014b}"
    )
    runs += "1" * (-len(runs) % 8)
    skip = int(runs, 2).to_bytes(len(runs) // 8, "big").replace(b"\xff", b"\xff\0")
    code = [1] + [0] * 15
    size = side.to_bytes(2, "big")
    bits = [(at, 0 if low == 13 else low + 1, low) for low in range(13, -1, -1) for at in range(1, 64)][: count - 1]
    return b"".join((
        b"\xff\xd8", segment(0xDB, [0] + [1] * 64), segment(0xC2, [8, *size, *size, 1, 1, 0x11, 0]),
        segment(0xC4, [0, *code, 0]), segment(0xC4, [0x10, *code, 0xE0]),
        segment(0xDA, [1, 1, 0, 0, 0, 0]), bytes(blocks // 8),
        *(segment(0xDA, [1, 1, 0, at, at, high << 4 | low]) + skip for at, high, low in bits), b"\xff\xd9",
    ))  # fmt: skip


def jpeg_440(pixels, quality=90):
    """A JPEG that coefficient images can't hold: Cb and Cr halved in height alone."""
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440]
    done, data = cv2.imencode(".jpg", pixels[..., ::-1], [*options, cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return data.tobytes()


def make_files(folder, copies=1):
    """Class "a" with ``copies`` images of each kind, names in the order of ``KINDS``."""
    (folder / "a").mkdir(parents=True)
    for n, (kind, (_, options)) in enumerate(list(KINDS.items()) * copies):
        path, pixels = folder / "a" / f"{n:03d}-{kind}.jpg", picture(n)
        if kind == "440":
            path.write_bytes(jpeg_440(pixels))
        elif kind == "png":
            Image.fromarray(pixels).save(path.with_suffix(".png"))
        else:
            image = Image.fromarray(pixels).convert({"grey": "L", "cmyk": "CMYK"}.get(kind, "RGB"))
            image.save(path, quality=85 + n % 9, **options)
        if kind == "damaged":
            data = path.read_bytes()
            path.write_bytes(data[:-80] + data[-2:])  # libjpeg warns, and makes up the rest
    return folder


def pixels_of(jpeg):
    """(H, W, 3) uint8 of a JPEG's bytes, as Pillow decodes it."""
    return np.asarray(Image.open(io.BytesIO(bytes(jpeg))).convert("RGB"))


def rewrite(path, change, coding=None):
    """Change a beton with right checksums: ``change(data, metadata)`` edits the file's bytes and its metadata."""
    images, tables = ImageBeton.open(path), read_tables(path)
    data, metadata = bytearray(path.read_bytes()), np.array(tables.metadata)
    change(data, metadata)
    specs = list(tables.specs)
    sums = np.zeros(len(images), np.uint32)
    for region in tables.all_regions():
        for i, (at, size) in enumerate(zip(region.pointers.tolist(), region.sizes.tolist(), strict=True)):
            sums[i] = zlib.crc32(data[at : at + size], int(sums[i]))
    allocations = np.empty(len(tables.pointers), layout.ALLOC_DTYPE)
    allocations["ptr"], allocations["size"] = tables.pointers, tables.sizes
    if coding is None:
        coding = images.coding.pack() if images.coding else b""
    else:
        specs[0] = layout.FieldSpec("image", layout.CUSTOM, layout.section(layout.CODING_MAGIC, len(coding)))
    with path.open("w+b") as file:
        file.write(data[: tables.data_end])
        layout.write_tables(
            file, specs, tables.page_size, metadata, sums, [allocations], np.array(images.origins), coding
        )
