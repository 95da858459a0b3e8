"""Fifteen corruptions at five severities for small robustness checks. **Not ImageNet-C.**

The names and kinds follow Hendrycks & Dietterich (ICLR 2019); the code, the strengths and the textures are ours, made
so that images of any size, 32 px ones too, can be corrupted without other files. Numbers from here compare models with
each other on the same images; they must not be put beside published mCE or ImageNet-C accuracies.

Strength depends on the size of the image. With ``side`` the shorter side in pixels:

- lengths (blur radii, shifts, flakes) are shares of ``side``;
- noise and pixelation are weaker on small images, by ``_detail(side) = clip(sqrt(side / 224), 0.4, 1)``, because there
  a pixel carries more of the picture.

Everything random comes from a counter-based generator keyed by (seed, corruption, severity, image), so that an image's
corrupted form does not depend on which others are corrupted, or in which order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np

SEVERITIES = (1, 2, 3, 4, 5)

_Corrupt = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
_BORDER = cv2.BORDER_REFLECT_101


def corrupt(image: np.ndarray, name: str, severity: int, index: int = 0, seed: int = 0) -> np.ndarray:
    """One image (H, W, 3) uint8, corrupted; same shape and dtype.

    index: the image's number, which the randomness depends on. Raises ValueError for an unknown corruption, a severity
    that is not 1 to 5, or an array that is no such image.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"corruption: {name!r} is not one of {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity: {severity} is not one of 1 to 5")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image: {image.dtype} {image.shape}, but uint8 (H, W, 3) is needed")
    # Philox takes the whole key as it is: no hashing, one microsecond.
    number = (NAMES.index(name) << 56) | (severity << 48) | index
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, number], np.uint64)))
    result = CORRUPTIONS[name](image, severity - 1, rng)
    return result if result.dtype == np.uint8 else _to_bytes(result)


def corrupt_all(images: np.ndarray, name: str, severity: int, seed: int = 0) -> np.ndarray:
    """Every image of (N, H, W, 3) uint8, by its number."""
    return np.stack([corrupt(image, name, severity, index, seed) for index, image in enumerate(images)])


class CorruptedImages:
    """Images with all their corrupted forms, each made when first asked for and kept: corrupt once, evaluate many.

    Memory: 75 times the images' (500 of 32 px: 115 MB).
    """

    def __init__(self, images: np.ndarray, seed: int = 0, names: tuple[str, ...] | None = None) -> None:
        """images: (N, H, W, 3) uint8; names: the corruptions, all fifteen if None."""
        self.images, self.seed, self.names = images, seed, names or NAMES
        self._made: dict[tuple[str, int], np.ndarray] = {}

    def __iter__(self) -> Iterator[tuple[str, int, np.ndarray]]:
        """(name, severity, images (N, H, W, 3) uint8), by name and rising severity."""
        for name in self.names:
            for severity in SEVERITIES:
                yield name, severity, self.get(name, severity)

    def get(self, name: str, severity: int) -> np.ndarray:
        """The images under one corruption."""
        key = (name, severity)
        if key not in self._made:
            self._made[key] = corrupt_all(self.images, name, severity, self.seed)
        return self._made[key]


# Helpers. Corruptions compute in float32 on the scale 0..255.


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _side(image: np.ndarray) -> int:
    return min(image.shape[:2])


def _detail(side: int) -> float:
    """How strong a change of single pixels may be for an image of this size; see the module's docstring."""
    return float(np.clip((side / 224) ** 0.5, 0.4, 1))


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def _clouds(rng: np.random.Generator, shape: tuple[int, ...], roughness: float) -> np.ndarray:
    """Cloudy noise (H, W) float32 in [0, 1]: octaves of random grids, each twice as fine and weaker by roughness.

    shape: of the image, (H, W, 3).
    """
    height, width, _ = shape
    total, weight, cells = np.zeros((height, width), np.float32), 1.0, 2
    while cells <= max(2, max(height, width) // 2):
        grid = rng.random((cells + 1, cells + 1), dtype=np.float32)
        total += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        cells, weight = cells * 2, weight * roughness
    low, high = total.min(), total.max()
    return (total - low) / max(high - low, 1e-6)


def _line(length: float, angle: float) -> np.ndarray:
    """Kernel of a straight motion over ``length`` pixels: points along the line, shared out between their pixels."""
    reach = int(np.ceil(length / 2)) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    t = np.linspace(-length / 2, length / 2, max(9, int(8 * length)))
    x, y = reach + t * np.cos(angle), reach + t * np.sin(angle)
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    for dx in (0, 1):
        for dy in (0, 1):
            np.add.at(kernel, (y0 + dy, x0 + dx), np.abs(1 - dx - (x - x0)) * np.abs(1 - dy - (y - y0)))
    return kernel / kernel.sum()


def _disk(radius: float) -> np.ndarray:
    """Kernel of a lens out of focus: a disk whose rim covers pixels in part."""
    reach = int(np.ceil(radius))
    fine = np.abs(np.arange(-reach * 8 - 4, reach * 8 + 4) + 0.5) / 8
    inside = (fine[:, None] ** 2 + fine[None] ** 2 <= radius**2).astype(np.float32)
    size = 2 * reach + 1
    kernel = inside.reshape(size, 8, size, 8).sum((1, 3))
    return kernel / kernel.sum()


def _shifted(image: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Each pixel from (x + dx, y + dy), bilinear."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    return cv2.remap(image, x + dx, y + dy, cv2.INTER_LINEAR, borderMode=_BORDER)


# Noise.


def _gaussian_noise(image: np.ndarray, s: int, rng: np.random.Generator) -> np.ndarray:
    sigma = (0.08, 0.12, 0.18, 0.26, 0.38)[s] * _detail(_side(image))
    return image + 255 * sigma * _normal(rng, image.shape)


def _shot_noise(image: np.ndarray, s: int, rng: np.random.Generator) -> np.ndarray:
    """Light counted in photons: variance in proportion to brightness."""
    photons = (60, 25, 12, 5, 3)[s] / _detail(_side(image)) ** 2
    return rng.poisson(image * (photons / 255)).astype(np.float32) * (255 / photons)


def _impulse_noise(image: np.ndarray, s: int, rng: np.random.Generator) -> np.ndarray:
    """A share of the values becomes 0 or 255."""
    share = (0.03, 0.06, 0.10, 0.17, 0.27)[s] * _detail(_side(image))
    hit = rng.random(image.shape, dtype=np.float32)
    result = image.copy()
    result[hit < share / 2] = 0
    result[hit > 1 - share / 2] = 255
    return result


# Blur.


def _defocus_blur(image: np.ndarray, s: int, rng: np.random.Generator) -> np.ndarray:
    radius = max(0.2, (0.022, 0.030, 0.040, 0.052, 0.066)[s] * _side(image))
    return cv2.filter2D(image, -1, _disk(radius), borderType=_BORDER)


def _glass_blur(image: np.ndarray, s: int, rng: np.random.Generator) -> np.ndarray:
    """Every pixel from a random neighbour, then a slight blur."""
    reach = (0.010, 0.015, 0.022, 0.030, 0.042)[s] * _side(image)
    dx, dy = reach * _normal(rng, (2, *image.shape[:2]))
    return cv2.GaussianBlur(_shifted(image, dx, dy), (0, 0), 0.35 + reach / 3, borderType=_BORDER)


def _motion_blur(image: np.ndarray, s: int, rng: np.random.Generator) -> np.ndarray:
    length = (0.06, 0.09, 0.13, 0.17, 0.22)[s] * _side(image)
    return cv2.filter2D(image, -1, _line(length, rng.uniform(0, np.pi)), borderType=_BORDER)


def _zoom_blur(image: np.ndarray, s: int, rng: np.random.Generator) -> np.ndarray:
    """Mean of ever larger versions: a camera that moves towards the scene while its shutter is open."""
    height, width = image.shape[:2]
    total = image.astype(np.float32)
    zooms = np.linspace(1, 1 + (0.11, 0.17, 0.23, 0.30, 0.38)[s], 9)[1:]
    for zoom in zooms:
        centre = (1 - zoom) * np.array([width - 1, height - 1]) / 2
        matrix = np.array([[zoom, 0, centre[0]], [0, zoom, centre[1]]])
        total += cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=_BORDER)
    return total / (1 + len(zooms))


# Weather.


def _snow(image: np.ndarray, s: int, rng: np.random.Generator) -> np.ndarray:
    """A paler scene behind flakes that fall aslant."""
    side = _side(image)
    seeds = (rng.random(image.shape[:2], dtype=np.float32) < (0.03, 0.05, 0.07, 0.09, 0.11)[s]).astype(np.float32)
    flakes = cv2.GaussianBlur(seeds, (0, 0), 0.4 + 0.004 * side)
    flakes = cv2.filter2D(flakes, -1, _line(0.05 * side, rng.uniform(np.pi / 4, 3 * np.pi / 4)), borderType=_BORDER)
    pale = (0.10, 0.17, 0.24, 0.31, 0.38)[s]
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)[:, :, None]
    scene = (1 - pale) * image + pale * (0.5 * grey + 127.5)
    return scene + 255 * np.clip(2.5 * flakes, 0, 1)[:, :, None]


def _frost(image: np.ndarray, s: int, rng: np.random.Generator) -> np.ndarray:
    """Bluish white crystals: the ridges of cloudy noise, over a dimmed scene."""
    ridges = 1 - np.abs(2 * _clouds(rng, image.shape, roughness=0.7) - 1)
    cover = (0.35, 0.48, 0.60, 0.70, 0.80)[s] * ridges[:, :, None] ** 2
    return (1 - cover) * image + cover * np.array([215, 230, 245], np.float32)


def _fog(image: np.ndarray, s: int, rng: np.random.Generator) -> np.ndarray:
    """Light grey clouds, denser the more severe, that also take contrast away."""
    density = (0.28, 0.40, 0.52, 0.63, 0.74)[s]
    cover = density * (0.6 + 0.4 * _clouds(rng, image.shape, roughness=0.5))[:, :, None]
    return (1 - cover) * image + cover * 225


# Light.


def _brightness(image: np.ndarray, s: int, rng: np.random.Generator) -> np.ndarray:
    """Value of HSV raised: hue and saturation stay."""
    hsv = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hsv[:, :, 2] = np.minimum(hsv[:, :, 2] + (0.1, 0.2, 0.3, 0.4, 0.5)[s], 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255


def _contrast(image: np.ndarray, s: int, rng: np.random.Generator) -> np.ndarray:
    """Drawn towards the image's mean colour."""
    mean = image.mean((0, 1), dtype=np.float32)
    return mean + (0.5, 0.38, 0.26, 0.16, 0.08)[s] * (image - mean)


# Digital.


def _elastic(image: np.ndarray, s: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth random shifts, of equal typical length on every image."""
    side = _side(image)
    field = _normal(rng, (*image.shape[:2], 2))
    field = cv2.GaussianBlur(field, (0, 0), 0.06 * side, borderType=_BORDER)
    field = field * ((0.012, 0.019, 0.027, 0.036, 0.046)[s] * side / max(float(field.std()), 1e-6))
    return _shifted(image, field[:, :, 0], field[:, :, 1])


def _pixelate(image: np.ndarray, s: int, rng: np.random.Generator) -> np.ndarray:
    """Shrunk by averaging, blown up by repeating."""
    height, width = image.shape[:2]
    share = (0.60, 0.48, 0.38, 0.30, 0.23)[s] ** max(0.7, _detail(_side(image)))
    small = (max(1, round(width * share)), max(1, round(height * share)))
    shrunk = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def _jpeg(image: np.ndarray, s: int, rng: np.random.Generator) -> np.ndarray:
    quality = (50, 32, 20, 12, 7)[s]
    encoded = cv2.imencode(".jpg", image[:, :, ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None  # OpenCV reads what it has just written
    return decoded[:, :, ::-1]


CORRUPTIONS: dict[str, _Corrupt] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg,
}
NAMES = tuple(CORRUPTIONS)
