"""JPEG to quantised DCT coefficients, without loss.

Sequential Huffman-coded JPEGs are decoded here, the others turned into such first, by libjpeg-turbo.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ffdr.codec.dct.format import Coefficients, block_grid
from ffdr.codec.jpeg.headers import SEQUENTIAL, Frame, Headers, Scan, Unsupported, check_frame, check_scans
from ffdr.codec.jpeg.markers import SOF2, has_wasteful_scans
from ffdr.codec.jpeg.scan import OK, OUTSIDE, REASONS, SLACK, TABLE, ScanLayout, build_table, decode_scan

__all__ = ["Unsupported", "read_jpeg"]

_MOST_BLOCKS_PER_BYTE = 4
"""A DC code and an end of block take a bit each."""
_MOST_PROGRESSIVE, _MOST_ARITHMETIC = 8, 1024
"""The same for progressive JPEGs, where a scan may end many blocks at once; arithmetic coding knows no bound, and this
one is several times what a picture of a single colour reaches."""
_DC_SYMBOLS = 16
_AC = 16


def read_jpeg(data: bytes | np.ndarray, size: tuple[int, int] | None = None) -> tuple[Coefficients, str]:
    """The coefficients and quantisation tables of a JPEG.

    Args:
        data: bytes, or (bytes,) uint8; what follows the end-of-image marker does not count.
        size: width and height in pixels that it must have; another one is found before memory is taken for it.

    Returns:
        The coefficients, and how they were had: "baseline" (sequential, Huffman-coded) or "transformed" (progressive
        or arithmetic, through libjpeg-turbo's lossless transformation).

    Raises:
        Unsupported: an undamaged JPEG that can't become a coefficient image, and why.
        ValueError: no JPEG, or damaged: whatever libjpeg warns of is an error here.
    """
    data = data if isinstance(data, bytes) else data.tobytes()
    if data[:2] != b"\xff\xd8":
        raise ValueError("no JPEG: it does not begin with FFD8")
    headers = Headers()
    scan, at = headers.read(data, 2)
    if scan is None:
        raise ValueError("the JPEG has no scan")
    sampling, frame = check_frame(headers), headers.frame
    if size is not None and size != (frame.width, frame.height):
        raise Unsupported(f"{frame.width}×{frame.height} pixels, not {size[0]}×{size[1]}")
    if frame.marker in SEQUENTIAL:
        return _decode(data, headers, sampling, scan, at), "baseline"
    _check_size(frame, sampling, len(data), _MOST_PROGRESSIVE if frame.marker == SOF2 else _MOST_ARITHMETIC)
    if has_wasteful_scans(np.frombuffer(data, np.uint8), frame.width * frame.height):
        raise ValueError("more scans than its bytes and its pixels explain")
    check_scans(data)
    from ffdr.codec.jpeg.transform import to_sequential  # imports FFCV, which takes seconds

    return read_jpeg(to_sequential(data))[0], "transformed"


@dataclass
class _Target:
    """An image while its scans are decoded. P planes."""

    sampling: int
    frame: Frame
    grids: list[tuple[int, int]]
    """Block rows, blocks per row, of each plane."""
    blocks: np.ndarray
    """(blocks + 1, 64) int16: those of all planes, and one for those that only pad MCUs."""
    quant: dict[int, np.ndarray] = field(default_factory=dict)
    """Quantisation tables of the planes that scans have brought."""

    def first(self, plane: int) -> int:
        """Index in ``blocks`` of a plane's first one."""
        return sum(rows * columns for rows, columns in self.grids[:plane])

    def layout(self, scan: Scan, interval: int, tables: np.ndarray) -> ScanLayout:
        """Where ``decode_scan`` puts the blocks; tables: 0, 1 of the scan's first component, 2, 3 of the second, ..."""
        alone = len(scan.components) == 1  # then its blocks are the MCUs
        components = []
        for i, (plane, _, _) in enumerate(scan.components):
            part = self.frame.components[plane]
            h, v = (1, 1) if alone else (part.h, part.v)
            components.append((h, v, *self.grids[plane], self.first(plane), 2 * i, 2 * i + 1))
        if alone:
            rows, columns = self.grids[scan.components[0][0]]
        else:
            h, v = (8 * max(getattr(part, side) for part in self.frame.components) for side in "hv")
            rows, columns = -(-self.frame.height // v), -(-self.frame.width // h)
        return ScanLayout(rows, columns, interval, np.array(components, np.int64), tables)

    def finished(self) -> Coefficients:
        """Raises ValueError where scans are missing."""
        count = len(self.grids)
        if len(self.quant) < count:
            raise ValueError(f"scans of {count - len(self.quant)} of {count} components are missing")
        planes = []
        for plane, (rows, columns) in enumerate(self.grids):
            first = self.first(plane)
            planes.append(self.blocks[first : first + rows * columns].reshape(rows, columns, 64))
        quant = np.stack([self.quant[plane] for plane in range(count)])
        return Coefficients(self.sampling, self.frame.width, self.frame.height, quant, tuple(planes))


def _decode(data: bytes, headers: Headers, sampling: int, scan: Scan | None, at: int) -> Coefficients:
    """Of a sequential JPEG, from its first scan on, which begins at ``at``."""
    frame = headers.frame
    grids = _check_size(frame, sampling, len(data), _MOST_BLOCKS_PER_BYTE)
    count = sum(rows * columns for rows, columns in grids)
    clean = np.empty(len(data) + SLACK, np.uint8)
    target = _Target(sampling, frame, grids, np.zeros((count + 1, 64), np.int16))
    raw = np.frombuffer(data, np.uint8)
    while scan is not None:
        tables = _tables(headers, scan)
        for plane, _, _ in scan.components:
            if plane in target.quant:
                raise ValueError("a component that is coded twice")
            number = frame.components[plane].quant
            if number not in headers.quant:
                raise ValueError(f"quantisation table {number} is missing")
            target.quant[plane] = headers.quant[number]
        layout = target.layout(scan, headers.interval, tables)
        status, at = decode_scan(raw, at, layout, target.blocks, clean)
        if status != OK:
            raise (Unsupported if status == OUTSIDE else ValueError)(REASONS[status])
        scan, at = headers.read(data, at)
    return target.finished()


def _check_size(frame: Frame, sampling: int, size: int, most: int) -> list[tuple[int, int]]:
    """The block grids of the planes; ValueError where ``size`` bytes can't hold them at ``most`` blocks per byte."""
    planes = range(len(frame.components))
    grids = [block_grid(sampling, frame.width, frame.height, plane) for plane in planes]
    if sum(rows * columns for rows, columns in grids) > most * size:
        raise ValueError(f"{size} bytes are too few for {frame.width}×{frame.height} pixels")
    return grids


def _tables(headers: Headers, scan: Scan) -> np.ndarray:
    """(2 × components, TABLE) int32: decoding tables of each component of a scan, DC and AC."""
    if (scan.first, scan.last, scan.high, scan.low) != (0, 63, 0, 0):
        raise ValueError("a scan of a sequential JPEG that brings a part of the coefficients")
    tables = np.empty((2 * len(scan.components), TABLE), np.int32)
    for i, numbers in enumerate((dc, ac + _AC) for _, dc, ac in scan.components):
        for kind, number in enumerate(numbers):
            name = f"Huffman table {number % _AC} for {'AC' if kind else 'DC'}"
            if number not in headers.huffman:
                raise ValueError(f"{name} is missing")
            counts, symbols = (np.frombuffer(part, np.uint8) for part in headers.huffman[number])
            if kind == 0 and len(symbols) and symbols.max() >= _DC_SYMBOLS:
                raise ValueError(f"{name} holds symbols of more than 15 bits")
            if not build_table(counts, symbols, tables[2 * i + kind]):
                raise ValueError(f"{name} is no code")
    return tables
