"""FFCV's Loader with a replay stage, and with its hangs and surprises fenced off.

FFCV opens the file, schedules pages, owns the batch buffers and runs the producer thread. Its first stage tells where
the bytes of each sample lie; ours (``_Replay``) turns them into a batch. What stock FFCV does and we don't:

- an exception in the producer thread leaves the consumer waiting for ever: here it is raised in the consumer;
- an iterator that is dropped half-way keeps its thread and buffers: here ``close`` ends the thread, and so does the end
  of the process;
- every epoch allocates (and pins) all buffers anew: here they are kept;
- a buffer may be overwritten while a GPU still copies from it, because only a CUDA stream waits, not the producer
  thread that writes: here the thread waits;
- constructing a Loader changes torch's thread count: here it is put back;
- tables from samples to pages and back, as Python sets, stay in memory: here they are dropped.
"""

from __future__ import annotations

import ffdr.beton.lean_ffcv  # noqa: F401

# isort: split
import atexit
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from queue import Empty, Full
from weakref import WeakSet

import numba
import numpy as np
import torch
from ffcv.fields.rgb_image import SimpleRGBImageDecoder
from ffcv.loader import Loader, epoch_iterator
from ffcv.loader.epoch_iterator import IS_CUDA, EpochIterator
from ffcv.memory_managers import OSCacheManager, ProcessCacheManager
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.graph import Graph
from ffcv.pipeline.operation import Operation
from ffcv.pipeline.pipeline_spec import PipelineSpec
from ffcv.pipeline.state import State

from ffdr.beton.decode import Replayer, blank_views
from ffdr.beton.order import EpochOrder
from ffdr.beton.pages import PageCache
from ffdr.beton.read import ImageBeton
from ffdr.beton.views import ViewSource
from ffdr.cores import thread_count
from ffdr.errors import UserError

Batch = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""images (B, H, W, 3) uint8, ids (B, T) int32, log_probs (B, T) float32, index (B,) int64: FFCV's own buffers, valid
until the next batch is asked for."""


class BatchStream:
    """Replayed batches of one image beton, epoch after epoch.

    Args:
        images: image beton.
        views: records and targets of a batch.
        order: which image comes when; it knows the batch size.
        resolution: side of the views, in pixels.
        threads: decoding threads; 0: one a core.
        batches_ahead: batches decoded in advance.
        os_cache: read through the memory map; otherwise into this process's own pages.
        device: where the consumer copies batches to, perhaps without waiting.
    """

    def __init__(
        self,
        images: ImageBeton,
        views: ViewSource,
        order: EpochOrder,
        resolution: int,
        *,
        threads: int = 0,
        batches_ahead: int = 3,
        os_cache: bool = True,
        device: torch.device | None = None,
    ) -> None:
        if batches_ahead < 1:
            raise UserError(f"batches_ahead: {batches_ahead}, but at least one batch is decoded in advance")
        self.images, self.order = images, order
        self._threads = thread_count(threads)
        self._replay = _Replay(_new_replayer(images, resolution, self._threads), views)
        with _torch_threads_kept():
            self._loader = _Loader(
                str(images.path),
                batch_size=order.batch_size,
                num_workers=self._threads,
                order=order,
                drop_last=order.drop_last,
                os_cache=os_cache,
                batches_ahead=batches_ahead,
                pipelines={
                    **dict.fromkeys(images.field_names),
                    "image": PipelineSpec("image", decoder=_Locate(), transforms=[self._replay]),
                },
                custom_fields=images.custom_fields,
            )
        self._loader.prepare(images, device)
        self._epoch: _Epoch | None = None

    def __len__(self) -> int:
        return len(self._loader)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the batch buffers, the replayer's scratch and the pages that the current epoch holds."""
        scratch = sum(part.nbytes for part in self._replay.replayer._room)
        return self._loader.memory_bytes + scratch

    def set_resolution(self, resolution: int) -> None:
        """Change the side of the views from the next epoch on; ends an unfinished one. Compiles nothing."""
        self.close()
        if self._replay.replayer.shape[0] == resolution:
            return
        self._replay.replayer = _new_replayer(self.images, resolution, self._threads)
        self._loader.allocate()

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from ``first_batch`` on.

        One epoch is read at a time: with the first batch of another, this one ends.

        Raises:
            RuntimeError: in the older of two iterators, once the newer has begun.
        """
        self._end(RuntimeError("this pass was ended by a newer one over the same loader, which reads one at a time"))
        self.order.first_batch = first_batch
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
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        if self._epoch is not None:
            self._epoch.close(error)
            self._epoch = None


def _new_replayer(images: ImageBeton, resolution: int, threads: int) -> Replayer:
    if resolution < 1:
        raise UserError(f"resolution: {resolution}, but a view has at least one pixel")
    return Replayer(images, resolution, threads)


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


_FILE = numba.types.Array(numba.uint8, 1, "C", readonly=True)
_MAPPED = numba.types.Tuple([_FILE, numba.uint64[::1], numba.uint64[::1]])


def _compile_mapped_reader(manager: OSCacheManager) -> Callable:
    """FFCV's reader of the mapped file, with a type of its own for the read-only map.

    FFCV's version marks Numba's one shared type of byte arrays as read-only, after which no kernel that had used it
    before can be compiled again in this process.
    """

    def read(address: int, state: tuple) -> np.ndarray:
        size = state[2][np.searchsorted(state[1], address)]
        return state[0][address : address + size]

    return Compiler.compile(read, _FILE(numba.uint64, _MAPPED))


OSCacheManager.compile_reader = _compile_mapped_reader


class _Loader(Loader):
    """FFCV's Loader, iterating with :class:`_Epoch`."""

    def prepare(self, images: ImageBeton, device: torch.device | None) -> None:
        """Complete the construction: memory manager, buffers."""
        if isinstance(self.memory_manager, ProcessCacheManager):
            self.memory_manager = PageCache(images, self.memory_manager)
        else:
            self.memory_manager.sample_to_pages = self.memory_manager.page_to_samples = {}
            self.memory_manager.ptr_to_size = {}
        self.first_traversal_order = None
        self.device = device if device is not None and device.type == "cuda" else None
        self.allocate()

    def allocate(self) -> None:
        """New buffers, for this and all coming epochs: only one is alive at a time."""
        if self.device is not None:
            torch.cuda.synchronize(self.device)  # the old ones may still be read
        slots = self.batches_ahead + 2
        self.buffers = buffers = Graph.allocate_memory(self.graph, self.batch_size, slots)
        self.graph.allocate_memory = lambda batch_size, slots: buffers
        self.in_use: list[torch.cuda.Event | None] = [None] * slots
        """What the device must have done before a slot may be written again."""
        if self.device is not None and not all(torch.from_numpy(part).is_pinned() for part in self._parts()):
            print("loader: its buffers could not be pinned (ulimit -l?); copies to the GPU are slow", file=sys.stderr)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the buffers and of the pages in memory."""
        return sum(part.nbytes for part in self._parts()) + getattr(self.memory_manager, "memory_bytes", 0)

    def _parts(self) -> list[np.ndarray]:
        """The arrays that make up the buffers."""
        nodes = [parts for kind in self.buffers.values() for parts in kind.values() if parts is not None]
        return [part for node in nodes for part in (node if isinstance(node, tuple) else (node,))]

    def __len__(self) -> int:
        return len(self.traversal_order)

    def __iter__(self) -> _Epoch:
        return _Epoch(self, self.next_traversal_order())


class _Epoch(EpochIterator):
    """FFCV's epoch iterator, but one that can be stopped and that passes errors on."""

    def __init__(self, loader: _Loader, order: Sequence[int]) -> None:
        self.error: BaseException | None = None
        self.handed_out: int | None = None
        with _no_streams():
            super().__init__(loader, order)
        _running.add(self)

    def run(self) -> None:
        """The producer thread."""
        try:
            if self.loader.device is not None and self.loader.device.index is not None:
                torch.cuda.set_device(self.loader.device)  # a new thread's is GPU 0, on which it would open a context
            self._produce()
        except BaseException as error:  # whatever it is, the consumer must see it rather than wait
            self.error = error
        finally:
            self.memory_context.__exit__(None, None, None)
            self.storage_state = None
        self._put(None)

    def _produce(self) -> None:
        in_use = self.loader.in_use
        for number, indices in enumerate(self.iter_ixes):
            slot = number % len(in_use)
            if in_use[slot] is not None:
                in_use[slot].synchronize()
            batch = self.run_pipeline(number, indices, slot, None)
            if not self._put((slot, batch)):
                return

    def _put(self, item: object) -> bool:
        """Queue an item unless the consumer has gone; whether to go on."""
        while not self.terminate_event.is_set():
            try:
                self.output_queue.put(item, timeout=0.1)
                return not self.terminate_event.is_set()
            except Full:
                continue
        return False

    def __next__(self) -> tuple:
        self._give_back()
        if not self.closed:
            item = self.output_queue.get()
            if item is not None:
                self.handed_out, batch = item
                return batch
            self.close()
        error, self.error = self.error, None
        raise error or StopIteration

    def _give_back(self) -> None:
        """The consumer is done with its batch, but for what it asked the device to do."""
        if IS_CUDA and self.handed_out is not None:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(self.loader.device))
            self.loader.in_use[self.handed_out] = event
        self.handed_out = None

    def close(self, error: Exception | None = None) -> None:
        """Stop the producer and wait for it; safe to call again.

        Args:
            error: raised in a consumer that asks for more; None: it just ends.
        """
        if threading.current_thread() is self:
            # The garbage collector found the iterator while it ran in this thread; locks may be held, so only:
            self.terminate_event.set()
            return
        if not self.closed:
            self.closed = True
            self.error = self.error or error
            self._give_back()
        self.terminate_event.set()
        self._drain()  # makes room for a producer that is blocked in put
        if self.is_alive():
            self.join()
            self._drain()
        with suppress(Full):
            self.output_queue.put_nowait(None)  # for a consumer that waits in another thread

    def _drain(self) -> None:
        with suppress(Empty):
            while True:
                self.output_queue.get_nowait()


@contextmanager
def _no_streams() -> Iterator[None]:
    """FFCV draws a CUDA stream for each slot in every epoch, for transforms on the GPU, of which there are none here.

    CUDA has a pool of 32, and the caching allocator keeps memory apart for each that it has seen.
    """
    before = epoch_iterator.IS_CUDA
    epoch_iterator.IS_CUDA = False
    try:
        yield
    finally:
        epoch_iterator.IS_CUDA = before


_running: WeakSet[_Epoch] = WeakSet()


@atexit.register
def _stop_all() -> None:
    """Threads that still decode while the interpreter is taken down would crash it."""
    for epoch in list(_running):
        epoch.close()


@contextmanager
def _torch_threads_kept() -> Iterator[None]:
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
