"""Marker codes of a JPEG: the byte behind FF (ITU-T T.81, table B.1)."""

from __future__ import annotations

import numpy as np

from ffdr.jit.kernel import inlined_kernel, kernel

SOF0, SOF1, SOF2, SOF9, SOF10, SOF15 = 0xC0, 0xC1, 0xC2, 0xC9, 0xCA, 0xCF
"""Frame headers: baseline, extended sequential, progressive; the last two of these, arithmetic; the last of all."""
DHT, JPG, DAC = 0xC4, 0xC8, 0xCC
"""Huffman tables, reserved, arithmetic conditioning: among the codes of the frame headers, but none."""
RST0 = 0xD0
SOI, EOI, SOS, DQT, DRI = 0xD8, 0xD9, 0xDA, 0xDB, 0xDD
APP0, APP14, APP15, COM = 0xE0, 0xEE, 0xEF, 0xFE

_FREE_SCANS = 32
"""Encoders that look for the best scans make half as many."""
_VISITS_PER_BYTE = 64
"""Blocks that further scans may pass for each byte of the JPEG: a photograph has ten bytes per block."""


@kernel
def has_wasteful_scans(data: np.ndarray, pixels: int) -> bool:
    """Whether a progressive JPEG, (bytes,) uint8, has far more scans than its size and its pixels explain.

    A scan of which a few bytes pass over a whole image takes half as long as decoding the image.
    """
    scans = np.int64(0)
    for at in range(len(data) - 1):
        scans += np.int64(data[at] == 0xFF and data[at + 1] == SOS)
    return (scans - _FREE_SCANS) * (3 * np.int64(pixels) // 64) > _VISITS_PER_BYTE * np.int64(len(data))


@inlined_kernel
def is_frame_header(marker: int) -> bool:
    """Whether the marker begins a frame header, of whatever process."""
    return SOF0 <= marker <= SOF15 and marker != DHT and marker != JPG and marker != DAC
