"""``Replayer``: the replay kernels with the memory that they need, for any number of threads.

Shapes: B views in the batch, H×W output, T threads.
"""

from __future__ import annotations

from math import prod

import numpy as np
from numba import set_num_threads

from ffdr.augment.laps import STAGES, new_laps
from ffdr.augment.replay import scratch_bytes
from ffdr.beton.layout import DCT, JPG
from ffdr.beton.read import ImageBeton
from ffdr.beton.records import Records
from ffdr.codec.dct.blocks import make_tables
from ffdr.codec.dct.decode import decode_coefficients
from ffdr.codec.dct.decode import scratch_bytes as coefficient_scratch_bytes
from ffdr.codec.dct.pixels import CANVAS_SLACK
from ffdr.codec.jpeg.entropy import CLEAN_SLACK
from ffdr.codec.jpeg.libjpeg import FUNCTION, make_handles
from ffdr.codec.jpeg.region import decode_segments, segments_scratch_bytes
from ffdr.codec.jpeg.splice import splice
from ffdr.jit.kernel import numba_threads
from ffdr.jit.prepare import prepare
from ffdr.jit.unit import Unit, called_by
from ffdr.loader.replay.samples import Scratch, Stored, Workspace, replay_batch, replay_group, time_batch
from ffdr.loader.replay.status import ReplayError
from ffdr.loader.views import ViewSource
from ffdr.util.arguments import integer
from ffdr.util.errors import UserError
from ffdr.util.machine import machine_memory
from ffdr.util.process import OneProcess
from ffdr.util.text import byte_size

_DECODERS = {JPG: {decode_segments, splice}, DCT: {decode_coefficients}}
"""By mode of images, what no others need."""
MAX_RESOLUTION = 26_754
"""Side of the largest square view below 2 GiB, which is as far as the kernels count."""


class Replayer(OneProcess):
    """Turns (image, view record) into pixels, in ``threads`` threads, at one resolution.

    Holds all scratch memory: per thread one decoded image of the largest stored size, one JPEG of the most stored
    bytes, the kernels' scratch and one output. Not to be called from two Python threads at once.

    Raises:
        UserError: a resolution that is none; images too large for the memory of this machine.
    """

    noun = "replayer"

    def __init__(self, images: ImageBeton, resolution: int, threads: int) -> None:
        super().__init__()
        resolution = view_side(resolution)
        self.images = images
        self.threads = threads
        self.shape = (resolution, resolution, 3)
        base = np.uint64(images.memmap.ctypes.data)
        tables = make_tables(images.coding)
        self._stored = Stored(images.modes, images.sizes, images.data_ptr, images.data_size, base, FUNCTION, *tables)
        widths, heights = images.sizes.astype(np.int64).T
        is_jpeg, is_dct = images.modes == JPG, images.modes == DCT
        largest = int((widths * heights * 3)[is_jpeg | is_dct].max(initial=0))
        longest = int(images.data_size[is_jpeg].max(initial=0))
        sample_bytes = max(
            int(bytes_for(int(widths[mode].max()))) if mode.any() else 0
            for mode, bytes_for in ((is_jpeg, segments_scratch_bytes), (is_dct, coefficient_scratch_bytes))
        )
        scratch = int(scratch_bytes(int(widths.max()), int(heights.max()), resolution, resolution))
        self._prepared: tuple[ViewSource | None, bool] | None = None
        """Arguments of the last ``prepare``."""
        self._check_memory(largest + longest + sample_bytes + scratch)
        self._workspace: Workspace = (
            make_handles(threads, self),
            np.zeros((threads, largest + CANVAS_SLACK), np.uint8),
            np.zeros((threads, longest + CLEAN_SLACK), np.uint8),
            np.zeros((threads, sample_bytes), np.uint8),
            np.zeros((threads, scratch), np.uint8),
            np.zeros((threads, *self.shape), np.uint8),
        )

    def prepare(self, views: ViewSource | None = None, in_threads: bool = True) -> None:
        """Load the kernels for these images, compiling those that are not on the disk.

        Parts of them that are not prepared are when they are first needed, one by one.

        Args:
            views: whose kernels are prepared, too, and whose views are all that is replayed; None: any views.
            in_threads: for whole batches; False: for one view at a time.
        """
        if self._prepared == (views, in_threads):
            return
        unused = {unit for mode, units in _DECODERS.items() if mode not in self.images.modes for unit in units}
        roots: list[Unit] = [replay_batch if in_threads else replay_group]
        if views is not None:
            unused |= views.unused
            roots += views.units
        prepare(called_by(roots, unused))
        self._prepared = views, in_threads

    @property
    def memory_bytes(self) -> int:
        """Bytes of the scratch memory."""
        return sum(part.nbytes for part in self._workspace)

    def _first_scratch(self, laps: int) -> Scratch:
        """For the calling thread alone. laps: the address of some, or 0."""
        handles, canvas, jpeg, samples, replay, partner = self._workspace
        return Scratch(handles[0], canvas[0], jpeg[0], samples[0], replay[0], partner[:1], np.uint64(laps))

    def _check_memory(self, per_thread: int) -> None:
        """Refuse images too large for this machine: of one colour, one of gigabytes has a JPEG of a few megabytes."""
        needed, present = self.threads * per_thread, machine_memory()
        if needed > present:
            width, height = self.images.sizes.max(axis=0).tolist()
            raise UserError(
                f"{self.images.path}: images of up to {width}×{height} pixels: decoding them in {self.threads} threads "
                f"needs {byte_size(needed)} of memory, this machine has {byte_size(present)}"
            )

    def spans(self, index: np.ndarray) -> np.ndarray:
        """Where the images of ``index`` (B,) lie in the memory map: (B, 3) uint64 index, address, size."""
        address = self.images.data_ptr[index] + self._stored.base
        return np.stack([index.astype(np.uint64), address, self.images.data_size[index]], axis=1)

    def __call__(self, spans: np.ndarray, records: Records, out: np.ndarray, views_per_image: int = 1) -> None:
        """Replay one batch.

        Args:
            spans: (B, 3) uint64: index, address of the stored bytes, their number.
            records: B of them.
            out: (B, H, W, 3) uint8, filled; of this replayer's resolution, or smaller.
            views_per_image: rows in a row that show the same image, which is decoded once for them. The threads share
                the work by groups of these.

        Raises:
            ReplayError: naming the first sample that could not be replayed.
            UserError: the file has become shorter.
            ValueError: the spans are not such groups.
        """
        _check_groups(spans, views_per_image)
        self.check_process()
        if self._prepared is None:
            self.prepare()
        self.images.file.check_size()
        status = np.zeros(len(spans), np.int32)
        set_num_threads(self.threads)  # of the calling thread; Numba keeps it per thread
        *scratch, partner = self._workspace
        partner = partner.ravel()[: self.threads * prod(out.shape[1:])].reshape(-1, *out.shape[1:])
        with numba_threads():
            replay_batch(self._stored, spans, records, out, (*scratch, partner), status, views_per_image)
        self._check_status(spans, status)

    def _check_status(self, spans: np.ndarray, status: np.ndarray) -> None:
        bad = np.flatnonzero(status)
        if len(bad):
            raise ReplayError(self.images.path, int(spans[bad[0], 0]), int(status[bad[0]]))

    def time_stages(self, spans: np.ndarray, records: Records, views_per_image: int = 1) -> dict[str, float]:
        """Replay a batch by the calling thread alone, for the time it takes; the pixels are lost.

        Args:
            spans, records, views_per_image: as for a batch.

        Returns:
            Seconds by stage (``ffdr.augment.laps.STAGES``), of all views together. The checks are in none of them.

        Raises:
            ReplayError, UserError, ValueError: as for a batch.
        """
        _check_groups(spans, views_per_image)
        self.images.file.check_size()
        laps, status = new_laps(), np.zeros(len(spans), np.int32)
        time_batch(self._stored, spans, records, self._first_scratch(laps.ctypes.data), status, views_per_image)
        self._check_status(spans, status)
        return dict(zip(STAGES, (laps[: len(STAGES)] / 1e9).tolist(), strict=True))

    def one(self, image: int, records: Records) -> np.ndarray:
        """One view, by the calling thread alone, so that a fork can have it, too: (H, W, 3) uint8.

        records: a batch of one.

        Raises:
            ReplayError: it could not be replayed.
            UserError: the file has become shorter.
        """
        if self._prepared is None:
            self.prepare(in_threads=False)
        self.images.file.check_size()
        out, status = np.empty((1, *self.shape), np.uint8), np.zeros(1, np.int32)
        spans = self.spans(np.array([image]))
        replay_group(self._stored, spans, records, out, self._first_scratch(0), status)
        self._check_status(spans, status)
        return out[0]


def _check_groups(spans: np.ndarray, size: int) -> None:
    """Raise ValueError unless every ``size`` rows, (B, 3), are of one image, as the kernels take for granted."""
    if size > 1 and (len(spans) % size or (spans.reshape(-1, size, 3) != spans[::size, None]).any()):
        raise ValueError(f"spans: not groups of {size} rows of the same image")


def view_side(resolution: object) -> int:
    """The side of square views, in pixels.

    Raises:
        UserError: it is none.
    """
    return integer("resolution", resolution, 1, MAX_RESOLUTION, "; views are square")
