"""Marker codes of a JPEG: the byte behind FF (ITU-T T.81, table B.1)."""

from __future__ import annotations

from ffdr.augment.jit import inlined_kernel

SOF0, SOF1, SOF2, SOF9, SOF10, SOF15 = 0xC0, 0xC1, 0xC2, 0xC9, 0xCA, 0xCF
"""Frame headers: baseline, extended sequential, progressive; the last two of these, arithmetic; the last of all."""
DHT, JPG, DAC = 0xC4, 0xC8, 0xCC
"""Huffman tables, reserved, arithmetic conditioning: among the codes of the frame headers, but none."""
RST0, RST7 = 0xD0, 0xD7
SOI, EOI, SOS, DQT, DRI = 0xD8, 0xD9, 0xDA, 0xDB, 0xDD
APP0, APP14, APP15, COM = 0xE0, 0xEE, 0xEF, 0xFE


@inlined_kernel
def is_frame_header(marker: int) -> bool:
    """Whether the marker begins a frame header, of whatever process."""
    return SOF0 <= marker <= SOF15 and marker != DHT and marker != JPG and marker != DAC
