"""The marker segments of a JPEG (ITU-T T.81, annex B), and whether coefficient images can hold the image.

Stricter than libjpeg on purpose: what it only warns of is damage here, because a loader that stops at warnings could
not decode the JPEG either. The colour space is guessed as libjpeg does it, which the standard leaves open.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from ffdr.codec.dct.format import FACTORS, GREY, YUV444, ZIGZAG
from ffdr.codec.jpeg import markers

SEQUENTIAL = (markers.SOF0, markers.SOF1)
TRANSFORMABLE = (markers.SOF2, markers.SOF9, markers.SOF10)
_PROGRESSIVE = (markers.SOF2, markers.SOF10)
_TABLES = 4
"""Of a kind, at most."""
_MOST_MCU_BLOCKS = 10
_JFIF_BYTES, _ADOBE_BYTES = 14, 12
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class Unsupported(ValueError):  # noqa: N818 - not all are errors: the caller has another way
    """An undamaged JPEG that can't become a coefficient image."""


@dataclass(frozen=True)
class Component:
    """One of a frame's."""

    name: int
    """Its identifier."""
    h: int
    """Sampling factors, 1 to 4."""
    v: int
    quant: int
    """Number of its quantisation table."""


@dataclass(frozen=True)
class Frame:
    """A frame header."""

    marker: int
    bits: int
    """per sample"""
    width: int
    height: int
    components: tuple[Component, ...]


@dataclass(frozen=True)
class Scan:
    """A scan header."""

    components: tuple[tuple[int, int, int], ...]
    """(index in the frame, DC table, AC table) of each."""
    first: int
    """Zig-zag ranks of its coefficients: first, last."""
    last: int
    high: int
    """Successive approximation: previous and present bit position."""
    low: int


@dataclass
class Headers:
    """What the marker segments up to some place have said."""

    _frame: Frame | None = None
    quant: dict[int, np.ndarray] = field(default_factory=dict)
    """Number → (64,) uint16, natural order."""
    huffman: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    """Number, of AC tables + 16 → (codes of each length, symbols)."""
    interval: int = 0
    """MCUs between restart markers, 0 without."""
    jfif: bool = False
    adobe: int | None = None
    """Colour transform that an Adobe segment states."""

    @property
    def frame(self) -> Frame:
        """The frame header; ValueError where there is none, which can only be before the first scan header."""
        if self._frame is None:
            raise ValueError("a scan before the frame header")
        return self._frame

    def read(self, data: bytes, at: int) -> tuple[Scan | None, int]:
        """Take in what stands from ``at`` on, up to and with the next scan header, or the end-of-image marker.

        Returns:
            The scan header, None at the end of the image; position of the first byte behind.

        Raises:
            ValueError: damage.
        """
        while True:
            marker, at = _marker(data, at)
            if marker == markers.EOI:
                return None, at
            if marker < markers.SOF0 or markers.RST0 <= marker <= markers.SOI:
                raise ValueError(f"marker FF{marker:02X} where a header is due")
            end = at + int.from_bytes(data[at : at + 2], "big")
            if not at + 2 <= end <= len(data):
                raise ValueError(f"the segment of marker FF{marker:02X} has no valid length")
            body, at = data[at + 2 : end], end
            if marker == markers.SOS:
                return self._scan(body), at
            self._take(marker, body)

    def _take(self, marker: int, body: bytes) -> None:
        if markers.is_frame_header(marker):
            self._take_frame(marker, body)
        elif marker == markers.DHT:
            self._take_huffman(body)
        elif marker == markers.DQT:
            self._take_quant(body)
        elif marker == markers.DRI:
            if len(body) != 2:
                raise ValueError("the restart interval has not two bytes")
            self.interval = int.from_bytes(body, "big")
        elif marker == markers.APP0 and len(body) >= _JFIF_BYTES and body.startswith(b"JFIF\0"):
            self.jfif = True
        elif marker == markers.APP14 and len(body) >= _ADOBE_BYTES and body.startswith(b"Adobe"):
            self.adobe = body[11]
        elif marker == markers.JPG or markers.SOF15 < marker < markers.APP0 or markers.APP15 < marker < markers.COM:
            raise Unsupported(f"marker FF{marker:02X}")

    def _take_frame(self, marker: int, body: bytes) -> None:
        if self._frame is not None:
            raise ValueError("a second frame header")
        if len(body) < 6 or body[5] == 0 or len(body) != 6 + 3 * body[5]:
            raise ValueError("the frame header has no valid length")
        height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
        parts = [body[i : i + 3] for i in range(6, len(body), 3)]
        components = tuple(Component(name, factors >> 4, factors & 15, quant) for name, factors, quant in parts)
        if not all(1 <= c.h <= 4 and 1 <= c.v <= 4 and c.quant < _TABLES for c in components):
            raise ValueError("the frame header has sampling factors or tables out of range")
        if not (width and height):
            raise ValueError(f"the frame header says {width}×{height} pixels")
        self._frame = Frame(marker, body[0], width, height, components)

    def _take_huffman(self, body: bytes) -> None:
        while body:
            number, counts = body[0], body[1:17]
            size = sum(counts)
            if number & 0xEF >= _TABLES or len(counts) < 16 or size > 256 or len(body) < 17 + size:
                raise ValueError("a Huffman table that is cut short or out of range")
            self.huffman[number], body = (counts, body[17 : 17 + size]), body[17 + size :]

    def _take_quant(self, body: bytes) -> None:
        while body:
            wide, number = divmod(body[0], 16)
            size = 64 * (1 + wide)
            if wide > 1 or number >= _TABLES or len(body) < 1 + size:
                raise ValueError("a quantisation table that is cut short or out of range")
            values = np.frombuffer(body[1 : 1 + size], ">u2" if wide else "u1")
            if not values.all():
                raise ValueError("a quantisation table that holds 0")
            self.quant[number] = np.empty(64, np.uint16)
            self.quant[number][ZIGZAG] = values
            body = body[1 + size :]

    def _scan(self, body: bytes) -> Scan:
        frame = self.frame
        if not body or not 1 <= body[0] <= 4 or len(body) != 4 + 2 * body[0]:
            raise ValueError("a scan header without a valid length")
        names = [component.name for component in frame.components]
        if not set(body[1:-3:2]) <= set(names) or len(set(body[1:-3:2])) != body[0]:
            raise ValueError("a scan header with components that the frame has not")
        chosen = [(names.index(body[i]), body[i + 1] >> 4, body[i + 1] & 15) for i in range(1, len(body) - 3, 2)]
        blocks = sum(frame.components[i].h * frame.components[i].v for i, _, _ in chosen)
        if len(chosen) > 1 and blocks > _MOST_MCU_BLOCKS:
            raise ValueError(f"{blocks} blocks per MCU")
        return Scan(tuple(chosen), body[-3], body[-2], body[-1] >> 4, body[-1] & 15)


def _marker(data: bytes, at: int) -> tuple[int, int]:
    """The marker at ``at``, which any number of fill bytes may precede, and the position behind it."""
    start = at
    while at < len(data) and data[at] == 0xFF:
        at += 1
    if at == len(data):
        raise ValueError("the JPEG ends before its end-of-image marker")
    if at == start:
        raise ValueError(f"byte {data[at]:02X} where a marker is due")
    return data[at], at + 1


def check_frame(headers: Headers) -> int:
    """The sampling of an image that coefficient images can hold, by the headers before its first scan.

    Raises:
        Unsupported: they can't, and why.
        ValueError: damage.
    """
    frame = headers.frame
    if frame.marker not in SEQUENTIAL + TRANSFORMABLE:
        raise Unsupported(f"JPEG process SOF{frame.marker - markers.SOF0}: not sequential or progressive")
    if frame.bits != 8:
        raise Unsupported(f"{frame.bits} bits per sample")
    if len(frame.components) == 1:
        return GREY
    if len(frame.components) != 3:
        raise Unsupported(f"{len(frame.components)} colour components")
    if _is_rgb(headers):
        raise Unsupported("RGB, not YCbCr")
    return _sampling(frame)


def _is_rgb(headers: Headers) -> bool:
    """libjpeg's guess for three components: JFIF is YCbCr, then Adobe's word counts, then the components' names."""
    if headers.jfif:
        return False
    if headers.adobe is not None:
        if headers.adobe > 1:
            raise ValueError(f"unknown colour transform {headers.adobe} of Adobe's")
        return headers.adobe == 0
    return bytes(component.name for component in headers.frame.components) == b"RGB"


def _sampling(frame: Frame) -> int:
    """By the factors' ratios: libjpeg treats twice the factors for all components alike, except for the MCUs."""
    y, cb, cr = frame.components
    if (cb.h, cb.v) == (cr.h, cr.v) and y.h % cb.h == 0 and y.v % cb.v == 0:
        ratio = (y.h // cb.h, y.v // cb.v)
        if ratio in FACTORS:
            return FACTORS.index(ratio, YUV444)
    factors = ", ".join(f"{component.h}×{component.v}" for component in frame.components)
    raise Unsupported(f"sampling factors {factors}: not 4:4:4, 4:2:2 or 4:2:0")


def check_scans(data: bytes) -> None:
    """Raise ValueError unless the scans of a progressive JPEG bring every coefficient in full.

    libjpeg smooths over missing ones when it decodes pixels, so the coefficients alone would look different.
    """
    headers = Headers()
    scan, at = headers.read(data, 2)
    missing = np.full((len(headers.frame.components), 64), 14)
    while scan is not None:
        if not 0 <= scan.first <= scan.last <= 63:
            raise ValueError("a scan whose coefficients are out of range")
        for index, _, _ in scan.components:
            missing[index, scan.first : scan.last + 1] = scan.low
        found = _AFTER_SCAN.search(data, at)
        if found is None:
            raise ValueError("the JPEG ends before its end-of-image marker")
        scan, at = headers.read(data, found.start())
    if headers.frame.marker in _PROGRESSIVE and missing.any():
        raise ValueError("scans are missing")
