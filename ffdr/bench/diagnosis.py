"""From measured rates to words: what limits training, and which setting to change. All rates are images/s."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

# What can limit training.
DISK, MEMORY, DECODE, COPY, STEP, TOGETHER = "disk", "memory", "decode", "copy", "step", "together"

WORDS = {
    DISK: "reading the images from the disk",
    MEMORY: "reading the images from memory",
    DECODE: "decoding and replaying the images",
    COPY: "copying batches to the GPU",
    STEP: "the training step",
    TOGETHER: "what the stages take from each other when they run together",
}

_FITTING = 0.8
"""Share of the free memory that a file may fill and still stay in it during training."""
_SLACK = 0.85
"""Training below this share of what its stages allow is slowed by something between them."""
_CLEARLY = 1.3
"""How many times as fast another way must be to be worth a change."""
_SHRINK = 2.5
"""Stored images with sides so many times the views' are decoded in more detail than the views show."""


@dataclass(frozen=True)
class Measured:
    """The rates of the stages, each alone, and what else the advice depends on."""

    disk: float | None
    """single images at random places of the file, none of them in memory; None: not measured"""
    pages: float | None
    """the same images in whole pages of the file, as ``data.os_cache=false`` reads them; None: not measured"""
    memory: float
    """single images that are in memory"""
    decode: float
    """with all decoding threads"""
    copy: float | None
    """to the GPU; None: there is none"""
    step: float
    training: float
    """all stages together"""
    file_bytes: int
    free_bytes: int
    """memory that the system could give to the file's pages"""
    cores: int
    threads: int
    """that decode"""
    side: float
    """mean shorter side of the stored images, pixels"""
    resolution: int
    jpeg: bool
    """whether any image is stored as JPEG"""
    precision: str
    compiled: bool
    memory_share: float | None
    """of the GPU's memory that the step takes at most; None: no GPU"""

    @property
    def fits(self) -> bool:
        """Whether the file stays in memory after the first epoch."""
        return self.file_bytes <= _FITTING * self.free_bytes

    @property
    def stages(self) -> dict[str, float]:
        """The rates of an epoch that is not the first, by stage."""
        reading = {MEMORY: self.memory} if self.fits or self.disk is None else {DISK: self.disk}
        copying = {} if self.copy is None else {COPY: self.copy}
        return reading | {DECODE: self.decode} | copying | {STEP: self.step}

    @property
    def expected(self) -> float:
        """Training's rate if the stages did not disturb each other: on a GPU machine that of the slowest, as they run
        side by side; without a GPU decoding and step take turns on the same cores."""
        slowest = min(self.stages.values())
        return slowest if self.copy is not None else min(slowest, 1 / (1 / self.decode + 1 / self.step))


@dataclass(frozen=True)
class Diagnosis:
    """What limits training."""

    limit: str
    """DISK, MEMORY, DECODE, COPY, STEP or TOGETHER"""
    sentences: tuple[str, ...]
    """what was found"""
    settings: tuple[str, ...]
    """what to change, the most promising first"""


def diagnose(m: Measured) -> Diagnosis:
    """The limit, in words, and what to do about it."""
    limit = min(m.stages, key=lambda stage: m.stages[stage])
    if m.training < _SLACK * m.expected:
        limit = TOGETHER
    return Diagnosis(limit, tuple(_findings(m, limit)), tuple(_ADVICE[limit](m)))


def _findings(m: Measured, limit: str) -> Iterator[str]:
    if limit == TOGETHER:
        yield (
            f"Training is limited by {WORDS[limit]}: {m.training:,.0f} images/s, although its stages would allow "
            f"{m.expected:,.0f}."
        )
    else:
        others = {stage: rate for stage, rate in m.stages.items() if stage != limit}
        second = min(others, key=lambda stage: others[stage])
        yield (
            f"Training is limited by {WORDS[limit]}: {m.stages[limit]:,.0f} images/s at most. Next comes "
            f"{WORDS[second]}, with {others[second]:,.0f}."
        )
    if m.copy is None and limit in (DECODE, STEP):
        yield f"Decoding and step share the {m.cores} cores: together {m.expected:,.0f} images/s."
    if m.disk is not None and m.fits and m.disk < m.expected:
        yield (
            f"The first epoch also waits for the disk ({m.disk:,.0f} images/s); the later ones find the file in "
            f"memory, where its {m.file_bytes / 2**30:,.1f} GiB fit. Reading the file once before (cat FILE > "
            "/dev/null) avoids it."
        )


def _disk(m: Measured) -> Iterator[str]:
    if m.pages is not None and m.disk is not None and m.pages > _CLEARLY * m.disk:
        yield (
            f"data.order=quasi_random with data.os_cache=false: whole pages come at {m.pages:,.0f} images/s, and a few "
            "of them are in memory at a time"
        )
    if m.side > _SHRINK * m.resolution:
        yield _smaller(m)
    size, free = (count / 2**30 for count in (m.file_bytes, m.free_bytes))
    yield f"more memory (the file has {size:,.1f} GiB, {free:,.1f} are free), or a faster disk"


def _memory(m: Measured) -> Iterator[str]:
    yield "write.mode=jpg and a smaller write.max_resolution: fewer bytes per image"


def _decode(m: Measured) -> Iterator[str]:
    if m.threads < m.cores:
        yield f"data.workers={m.cores}: {m.threads} threads decode, but there are {m.cores} cores"
    if m.jpeg and m.side > _SHRINK * m.resolution:
        yield _smaller(m)
    if m.jpeg:
        yield "write.growth=1.03: more restart segments in the JPEGs, of which crops decode fewer pixels"
        yield "write.mode=raw, where the larger file still fits in memory: nothing is left to decode"
    needed = -(-m.threads * m.step // m.decode)
    yield f"more cores: about {needed:,.0f} decode as fast as the step learns"


def _copy(m: Measured) -> Iterator[str]:
    yield "the GPU's slot: is it the fastest of the machine, with all its lanes?"
    yield "train.min_resolution: smaller views in the early epochs are fewer bytes"


def _step(m: Measured) -> Iterator[str]:
    if m.copy is None:
        yield "a GPU, or a smaller model or train.resolution: this machine's cores compute the step"
    elif m.precision == "float32":
        yield "train.precision=auto: bfloat16 where the GPU has it"
    if not m.compiled:
        yield "train.compile=default: fused kernels, after a minute or more of compilation"
    if m.memory_share is not None and m.memory_share < 0.5:
        yield f"a larger train.batch_size: the step takes {m.memory_share:.0%} of the GPU's memory"
    if m.copy is not None:
        yield "train.min_resolution: smaller views in the early epochs; or more GPUs with torchrun"


def _together(m: Measured) -> Iterator[str]:
    if m.threads > 1 and m.threads >= m.cores:
        yield f"data.workers={m.threads - 1}: a core for the loop that feeds the step"
    yield "other programs on this machine: do they take cores or memory meanwhile?"


def _smaller(m: Measured) -> str:
    return (
        f"write.max_resolution={2 * m.resolution}: the stored images have {m.side:,.0f} px on the shorter side, "
        f"the views {m.resolution}"
    )


_ADVICE: dict[str, Callable[[Measured], Iterator[str]]] = {
    DISK: _disk,
    MEMORY: _memory,
    DECODE: _decode,
    COPY: _copy,
    STEP: _step,
    TOGETHER: _together,
}
