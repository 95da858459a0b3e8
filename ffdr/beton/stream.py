"""FFCV's Loader with a replay stage, and with its hangs and surprises fenced off.

FFCV opens the file, schedules pages, owns the batch buffers and runs the producer thread. Its first stage tells where
the bytes of each sample lie; ours (``_Replay``) turns them into a batch. What stock FFCV does and we don't:

- an exception in the producer thread leaves the consumer waiting for ever: here it is raised in the consumer;
- an iterator that is dropped half-way keeps its thread and buffers: here ``close`` ends the thread;
- every epoch allocates (and pins) all buffers anew: here they are kept;
- constructing a Loader changes torch's thread count: here it is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from queue import Empty, Full

import numba
import numpy as np
import torch
from ffcv.fields.rgb_image import SimpleRGBImageDecoder
from ffcv.loader import Loader
from ffcv.loader.epoch_iterator import IS_CUDA, EpochIterator
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.operation import Operation
from ffcv.pipeline.pipeline_spec import PipelineSpec
from ffcv.pipeline.state import State
from ffcv.traversal_order.base import TraversalOrder

from ffdr.augment.jit import kernel
from ffdr.augment.random import ORDER, uniform
from ffdr.beton.decode import Replayer, blank_views
from ffdr.beton.read import ImageBeton
from ffdr.beton.views import ViewSource
from ffdr.errors import UserError

Batch = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""images (B, H, W, 3) uint8, ids (B, T) int32, log_probs (B, T) float32, index (B,) int64: FFCV's own buffers, valid
until the next batch is asked for."""


class BatchStream:
    """Replayed batches of one image beton, epoch after epoch.

    Memory: (batches_ahead + 2) batches of H×W×3 bytes an image, and the ``Replayer``'s scratch.
    """

    def __init__(
        self,
        images: ImageBeton,
        views: ViewSource,
        batch_size: int,
        resolution: int,
        threads: int = 0,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        batches_ahead: int = 3,
    ) -> None:
        threads = thread_count(threads)
        self._order = _EpochOrder(images.num_images, seed, shuffle)
        self._replay = _Replay(Replayer(images, resolution, threads), views)
        with _torch_threads_kept():
            self._loader = _Loader(
                str(images.path),
                batch_size=batch_size,
                num_workers=threads,
                order=self._order,
                drop_last=drop_last,
                batches_ahead=batches_ahead,
                pipelines={
                    **dict.fromkeys(images.field_names),
                    "image": PipelineSpec("image", decoder=_Locate(), transforms=[self._replay]),
                },
                custom_fields=images.custom_fields,
            )
        self._epoch: _Epoch | None = None

    def __len__(self) -> int:
        return len(self._loader)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from ``first_batch`` on. One epoch is read at a time: asking for another ends it."""
        self.close()
        self._order.first = first_batch * self._loader.batch_size
        self._replay.epoch = epoch
        self._loader.next_epoch = epoch
        self._epoch = current = iter(self._loader)
        try:
            for ((images, ids, log_probs, index),) in current:
                yield images, ids, log_probs, index
        finally:
            current.close()

    def close(self) -> None:
        """End the producer thread, if one is running."""
        if self._epoch is not None:
            self._epoch.close()
            self._epoch = None


def thread_count(asked: int) -> int:
    """Decoding threads: as asked, or one a core for 0; more than this process may use is an error."""
    available = numba.config.NUMBA_NUM_THREADS
    if asked > available:
        raise UserError(f"workers: {asked} decoding threads asked for, but this process may use {available} cores")
    return asked or available


class _EpochOrder(TraversalOrder):
    """Which image comes when: a permutation keyed by (seed, epoch), or the file's order.

    Sorting counter-based random keys gives the same permutation on every machine and NumPy version.
    """

    def __init__(self, count: int, seed: int, shuffle: bool) -> None:
        self.count, self.seed, self.shuffle = count, seed, shuffle
        self.first = 0
        """Images already consumed, when an epoch is resumed half-way."""

    def __call__(self, loader: Loader) -> _EpochOrder:
        return self  # FFCV instantiates orders with the loader; this one needs nothing from it

    def sample_order(self, epoch: int) -> np.ndarray:
        """(N,) int64 image indices."""
        if not self.shuffle:
            return np.arange(self.count)
        return np.argsort(_sort_keys(self.seed, epoch, self.count), kind="stable")


@kernel
def _sort_keys(seed: int, epoch: int, count: int) -> np.ndarray:
    keys = np.empty(count, np.float64)
    for image in range(count):
        keys[image] = uniform(seed, ORDER, epoch, image, 0)
    return keys


class _Locate(SimpleRGBImageDecoder):
    """FFCV decoder that decodes nothing: it says where each sample's bytes are, (B, 3): index, address, size."""

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        kind = np.dtype("int64")  # the same 8 bytes; torch, which allocates, has little use for uint64
        return replace(previous_state, jit_mode=True, shape=(3,), dtype=kind), AllocationQuery((3,), kind)

    def generate_code(self) -> Callable:
        read = self.memory_read

        def locate(indices: np.ndarray, spans: np.ndarray, metadata: np.ndarray, storage: tuple) -> np.ndarray:
            for i in range(len(indices)):
                data = read(metadata[indices[i]]["data_ptr"], storage)
                spans[i, 0] = indices[i]
                spans[i, 1] = data.ctypes.data
                spans[i, 2] = data.size
            return spans[: len(indices)]

        return locate


class _Replay(Operation):
    """The stage that makes a batch: fills views and targets from their source, then replays."""

    def __init__(self, replayer: Replayer, views: ViewSource) -> None:
        super().__init__()
        self.replayer, self.source = replayer, views
        self.epoch = 0

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, tuple[AllocationQuery, ...]]:
        entries, u8 = self.source.entries, np.dtype("uint8")
        return replace(previous_state, jit_mode=False, shape=self.replayer.shape, dtype=u8), (
            AllocationQuery(self.replayer.shape, u8),
            AllocationQuery((entries,), np.dtype("int32")),
            AllocationQuery((entries,), np.dtype("float32")),
            AllocationQuery((), np.dtype("int64")),
        )

    def generate_code(self) -> Callable:
        def replay(spans: np.ndarray, buffers: Batch) -> Batch:
            images, ids, log_probs, index = buffers
            index[:] = spans[:, 0]
            views, mixes = blank_views(len(index))
            self.source.fill(self.epoch, index, views, mixes, ids, log_probs)
            self.replayer(spans.view(np.uint64), views, mixes, images)
            return buffers

        return replay


class _Loader(Loader):
    """FFCV's Loader, iterating with :class:`_Epoch`."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)
        # Only one epoch is alive at a time, so all epochs can share their buffers.
        self.graph.allocate_memory = lru_cache(maxsize=1)(self.graph.allocate_memory)

    def __iter__(self) -> _Epoch:
        order = self.next_traversal_order()[: len(self) * self.batch_size]
        return _Epoch(self, order[self.traversal_order.first :])


class _Epoch(EpochIterator):
    """FFCV's epoch iterator, but one that can be stopped and that passes errors on."""

    def __init__(self, loader: _Loader, order: Sequence[int]) -> None:
        self.error: BaseException | None = None
        super().__init__(loader, order)

    def run(self) -> None:
        """The producer thread."""
        try:
            self._produce()
        except BaseException as error:  # whatever it is, the consumer must see it rather than wait
            self.error = error
        self._put(None)

    def _produce(self) -> None:
        slots = self.loader.batches_ahead + 2
        consumed = [None] * slots
        for number, indices in enumerate(self.iter_ixes):
            slot = number % slots
            batch = self.run_pipeline(number, indices, slot, consumed[slot])
            if not self._put((slot, batch)):
                return
            if IS_CUDA:
                # The consumer has by now enqueued its work on the batch before the queued ones: that slot may be
                # overwritten once this event has passed.
                event = torch.cuda.Event()
                event.record(self.current_stream)
                consumed[(slot + 1) % slots] = event

    def _put(self, item: object) -> bool:
        """Queue an item unless the consumer has gone; whether it was queued."""
        while not self.terminate_event.is_set():
            try:
                self.output_queue.put(item, timeout=0.1)
                return True
            except Full:
                continue
        return False

    def __next__(self) -> tuple:
        if self.closed:
            raise StopIteration
        try:
            return super().__next__()
        except StopIteration:
            if self.error is not None:
                raise self.error from None
            raise

    def close(self) -> None:
        """Stop the producer and wait for it; safe to call again."""
        if self.closed:
            return
        self.closed = True
        self.terminate_event.set()
        try:
            while True:  # room for a producer that is blocked in put
                self.output_queue.get_nowait()
        except Empty:
            pass
        if self.is_alive():
            self.join()
        self.memory_context.__exit__(None, None, None)


@contextmanager
def _torch_threads_kept() -> Iterator[None]:
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
