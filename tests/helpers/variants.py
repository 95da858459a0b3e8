"""JPEGs of every kind from other encoders, and what libjpeg-turbo finds in a JPEG."""

import ctypes
import io

import cv2
import numpy as np
from PIL import Image
from scipy.fft import idctn
from sklearn.datasets import load_sample_images

from ffdr.codec.dct.format import FACTORS, GREY
from ffdr.codec.jpeg.transform import lib, to_sequential

PHOTO = load_sample_images().images[0]
SIZES = [
    (1, 1),
    (7, 9),
    (8, 8),
    (16, 16),
    (17, 16),
    (33, 50),
    (1, 40),
    (40, 1),
    (64, 31),
    (15, 65),
    (100, 75),
    (161, 120),
]
WIDE_TABLES = [[1 + 7 * i for i in range(64)], [300] * 64]

lib.tjInitDecompress.restype = ctypes.c_void_p
lib.tjDecompressToYUV2.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p]
lib.tjDecompressToYUV2.argtypes += [ctypes.c_int] * 4
lib.tjDecompressHeader3.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_ulong] + [ctypes.c_void_p] * 4
lib.tjCompress2.argtypes = [ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int] * 4
lib.tjCompress2.argtypes += [ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int] * 3
lib.tjInitCompress.restype = ctypes.c_void_p


def picture(size, seed=0):
    """Part of a photograph with a little noise: (H, W, 3) uint8."""
    rng = np.random.default_rng([seed, *size])
    left, top = rng.integers(0, 640 - size[0]), rng.integers(0, 427 - size[1])
    pixels = PHOTO[top : top + size[1], left : left + size[0]].astype(np.int16)
    return np.clip(pixels + rng.integers(-9, 10, pixels.shape), 0, 255).astype(np.uint8)


def pillow(pixels, sampling, **options):
    """Pillow's JPEG."""
    out = io.BytesIO()
    image = Image.fromarray(pixels)
    if sampling == GREY:
        image = image.convert("L")
    else:
        options["subsampling"] = sampling - 1
    if "qtables" in options and sampling == GREY:
        options["qtables"] = options["qtables"][:1]
    image.save(out, "jpeg", **options)
    return out.getvalue()


CV2_SAMPLINGS = {name: getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{name}") for name in (444, 422, 420, 440, 411)}


def opencv(pixels, sampling, quality=90, interval=0, optimise=0, progressive=0, factors=None):
    """OpenCV's JPEG; ``factors`` as 440 in place of the sampling's."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_RST_INTERVAL, interval]
    options += [cv2.IMWRITE_JPEG_OPTIMIZE, optimise, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    image = np.ascontiguousarray(pixels[..., ::-1])
    if sampling == GREY:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    else:
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, CV2_SAMPLINGS[factors or (444, 422, 420)[sampling - 1]]]
    return cv2.imencode(".jpg", image, options)[1].tobytes()


def arithmetic(pixels, sampling, monkeypatch, progressive="0"):
    """libjpeg-turbo's arithmetic-coded JPEG, which its interface makes only by order of the environment."""
    monkeypatch.setenv("TJ_ARITHMETIC", "1")
    monkeypatch.setenv("TJ_PROGRESSIVE", progressive)
    turbo = {0: 3, 1: 0, 2: 1, 3: 2}[sampling]
    handle, out, size = lib.tjInitCompress(), ctypes.c_void_p(), ctypes.c_ulong()
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    where = ctypes.byref(out), ctypes.byref(size)
    assert lib.tjCompress2(handle, pixels.ctypes.data, width, 0, height, 0, *where, turbo, 85, 0) == 0
    data = ctypes.string_at(out, size.value)
    lib.tjFree(out)
    lib.tjDestroy(ctypes.c_void_p(handle))
    return data


def variants(sampling, size, seed):
    """JPEGs of one picture by eleven ways of encoding, each at a quality of its own: (name, bytes)."""
    rng = np.random.default_rng([seed, sampling, *size])
    pixels = picture(size, seed)
    for turn, (name, options) in enumerate(
        {
            "plain": {},
            "optimised": {"optimize": True},
            "progressive": {"progressive": True},
            "wide tables": {"qtables": WIDE_TABLES},
        }.items()
    ):
        quality = {} if "qtables" in options else {"quality": int(rng.integers(5, 101))}
        yield name, pillow(picture(size, seed + turn), sampling, **quality, **options)
    for quality in (5, 50, 100):
        yield f"opencv {quality}", opencv(pixels, sampling, quality)
    row = -(-size[0] // (8 * FACTORS[sampling][0]))  # in units of as many blocks as are coded together
    for interval, optimise in ((1, 0), (3, 1), (row, 1)):
        name, quality = f"opencv restarts {interval}", int(rng.integers(5, 101))
        yield name, opencv(pixels, sampling, quality, interval=interval, optimise=optimise)
    yield "opencv progressive", opencv(pixels, sampling, int(rng.integers(5, 101)), progressive=1)


def all_variants(sampling):
    """(name, size, bytes) of 132 JPEGs of a sampling."""
    return [(name, size, data) for seed, size in enumerate(SIZES) for name, data in variants(sampling, size, seed)]


def canonical(data):
    """What libjpeg-turbo makes of a JPEG: frame, quantisation table of each component, scan by the standard's codes.

    Equal for equal coefficients and tables of equal images, whatever else stands in the JPEGs.
    """
    found, rest = segments(to_sequential(data))
    frame = next(segment for marker, segment in found if marker in (0xC0, 0xC1))
    tables = {segment[4] & 15: segment[5:] for marker, segment in found if marker == 0xDB}
    return frame[4:10], frame[11::3], [tables[number] for number in frame[12::3]], rest


def planes_by_libjpeg(data, coefficients):
    """The samples of Y, Cb, Cr by libjpeg's accurate IDCT, before chroma is interpolated, at least of image size."""
    factors = FACTORS[coefficients.sampling]
    shapes = []
    for h, v in [(1, 1), factors, factors][: len(coefficients.planes)]:
        padded = [-(-side // f) * f for side, f in zip((coefficients.width, coefficients.height), factors, strict=True)]
        shapes.append((padded[1] // v, padded[0] // h))
    out = np.zeros(sum(a * b for a, b in shapes), np.uint8)
    handle = lib.tjInitDecompress()
    done = lib.tjDecompressToYUV2(handle, data, len(data), out.ctypes.data, 0, 1, 0, 4096 | 8192)
    lib.tjDestroy(ctypes.c_void_p(handle))
    assert done == 0
    ends = np.cumsum([a * b for a, b in shapes])
    return [part.reshape(shape) for part, shape in zip(np.split(out, ends[:-1]), shapes, strict=True)]


def planes_by_scipy(coefficients):
    """The samples of all blocks by a floating-point IDCT, not rounded, clipped to [0, 255]."""
    planes = []
    for plane, table in zip(coefficients.planes, coefficients.quant, strict=True):
        rows, columns = plane.shape[:2]
        blocks = (plane.astype(np.float64) * table).reshape(rows, columns, 8, 8)
        samples = idctn(blocks, axes=(2, 3), norm="ortho") + 128
        planes.append(np.clip(samples.transpose(0, 2, 1, 3).reshape(8 * rows, 8 * columns), 0, 255))
    return planes


def is_rgb_to_libjpeg(data):
    """Whether libjpeg takes the components for R, G and B."""
    handle = lib.tjInitDecompress()
    answers = [ctypes.c_int(-1) for _ in range(4)]
    done = lib.tjDecompressHeader3(handle, data, len(data), *map(ctypes.byref, answers))
    lib.tjDestroy(ctypes.c_void_p(handle))
    assert done == 0
    return answers[3].value == 0


def segments(data):
    """[(marker, whole segment)] up to the first scan header with it, and all that follows."""
    found, at = [], 2
    while not found or found[-1][0] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found.append((data[at + 1], data[at:end]))
        at = end
    return found, data[at:]


def join(found, rest):
    """The JPEG that ``segments`` took apart."""
    return b"\xff\xd8" + b"".join(segment for _, segment in found) + rest
