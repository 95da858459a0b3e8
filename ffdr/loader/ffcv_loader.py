"""What of FFCV's Loader makes our batches, and what of it is kept out.

``BatchStream`` (``stream.py``) has the thread, the buffers and the consumer; here FFCV has the opened beton, the memory
manager, the traversal order and the pipeline, which is built once per loader and makes one batch per call::

    image bytes → _Locate (decoder) → (B, 3) spans → Replay (operation) → a HostBatch

What this module relies on, of FFCV 1.0.2 (``lean_ffcv.py`` has what makes FFCV importable, other modules its fields):

- ``Loader.generate_code`` puts (stages, results) into ``code``, from ``graph``; ``Loader.next_traversal_order`` asks
  ``traversal_order.sample_order`` for ``next_epoch``, all images of an epoch in order.
- ``Graph``: a decoder's code is called with (indices, memory, metadata of its field, storage state), an operation's
  with (result of the one before, memory), each with what ``declare_state_and_memory`` asked for. Stages 0, 2, … are
  those that it compiles; the others run as they are.
- ``EpochIterator.run_pipeline``: a stage is called with arguments by name; its results are arguments of later ones.
- ``MemoryManager``: ``schedule_epoch(batches)`` is a context; ``start_batch`` is called before each batch, ``state`` is
  the storage state, in which what ``compile_reader`` returns finds addresses of the file. ``OSCacheContext`` uses the
  map that it has. ``compute_schedule`` plans pages for batches.

What is kept out, and how:

- ``Loader.__init__`` sets torch's and Numba's number of threads, draws from NumPy's global generator, and makes
  managers and readers with the faults below: ``BetonLoader`` sets the attributes that the methods above use, no others.
- ``Reader`` parses the file anew and holds its tables once more: ``_Opened`` hands out those of the opened beton.
- ``MemoryManager.__init__`` makes Python sets and dictionaries over all samples, seconds and gigabytes for ImageNet;
  ``compile_reader`` compiles for each loader: ``_MappedFile`` and ``_OwnPages`` do neither.
- ``Graph.codegen_stage`` compiles decoders anew for each loader, 0.4 s and 2.6 MiB that are never given back: in
  ``_Graph`` all nodes are in a stage that runs as it is. What takes time in them is compiled once per machine
  (``replay/``, ``views.py``). ``Graph.allocate_memory`` pins wherever there is a GPU, and hides why it can't.
- ``EpochIterator`` leaves its consumer waiting for ever when its thread fails; keeps the thread of an iterator that is
  dropped half-way; allocates anew in every epoch; takes a CUDA stream per slot of the 32 that there are; overwrites a
  buffer from which a GPU still copies: ``stream.Pass`` is in its place.
- ``ProcessCacheContext`` takes what a failed read leaves for the page, and more (``pages.py``): ``PagePlan`` is in its
  place.
"""

from __future__ import annotations

import ffdr.util.lean_ffcv  # noqa: F401

# isort: split
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import numpy as np
from ffcv.fields import RGBImageField
from ffcv.loader import Loader
from ffcv.loader.epoch_iterator import select_buffer
from ffcv.memory_managers import OSCacheManager, ProcessCacheManager
from ffcv.memory_managers.os_cache import OSCacheContext
from ffcv.memory_managers.process_cache.schedule import compute_schedule
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.graph import Graph
from ffcv.pipeline.operation import Operation
from ffcv.pipeline.pipeline_spec import PipelineSpec
from ffcv.pipeline.state import State
from ffcv.reader import Reader
from ffcv.utils import chunks

from ffdr.augment.view import share_of_first
from ffdr.beton.read import ImageBeton
from ffdr.beton.records import Records
from ffdr.loader.order import EpochOrder, view_epochs
from ffdr.loader.pages import PageCache, PagePlan
from ffdr.loader.replay.replayer import Replayer
from ffdr.loader.views import ViewBatch, ViewSource


class HostBatch(NamedTuple):
    """A batch in the buffers of a ``BatchStream``, which are written again. (Buffers: the same of all slots.)"""

    pixels: np.ndarray
    """(B, H, W, 3) uint8"""
    ids: np.ndarray
    """(B, T) int32"""
    log_probs: np.ndarray
    """(B, T) float32"""
    image: np.ndarray
    """(B,) int64, its number in the beton"""
    partner: np.ndarray
    """(B,) int64, that of the image that is mixed in"""
    share: np.ndarray
    """(B,) float32, the first image's share of the view"""


class Replay(Operation):
    """The operation that makes a batch: it fills views and targets from their source, then replays.

    views: records and targets of a batch.
    replayer: of the views; another one from the next batch on, if it is replaced.
    views_per_image: of ``OrderSettings``.
    """

    def __init__(self, views: ViewSource, replayer: Replayer, views_per_image: int = 1) -> None:
        super().__init__()
        self.views, self.replayer, self.views_per_image = views, replayer, views_per_image
        self.epoch = 0
        """Of the batches to come."""

    @property
    def parts(self) -> tuple[tuple[tuple[int, ...], np.dtype], ...]:
        """Shape, per sample, and dtype of a ``HostBatch``'s parts."""
        entries = (self.views.entries,)
        shapes = self.replayer.shape, entries, entries, (), (), ()
        kinds = "uint8", "int32", "float32", "int64", "int64", "float32"
        return tuple((shape, np.dtype(kind)) for shape, kind in zip(shapes, kinds, strict=True))

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, tuple[AllocationQuery, ...]]:
        """Not compiled; a ``HostBatch``."""
        parts = self.parts
        shape, dtype = parts[0]
        state = replace(previous_state, jit_mode=False, shape=shape, dtype=dtype)
        return state, tuple(AllocationQuery(*part) for part in parts)

    def generate_code(self) -> Callable:
        """Make the batch whose bytes lie at ``spans``."""

        def replay(spans: np.ndarray, batch: HostBatch) -> HostBatch:
            batch.image[:] = spans[:, 0]
            records = Records.blank(len(spans))
            epochs = view_epochs(self.epoch, len(spans), self.views_per_image)
            self.views.fill(epochs, batch.image, ViewBatch(*records, batch.ids, batch.log_probs))
            batch.partner[:], batch.share[:] = records.mixes["partner"], share_of_first(records.mixes)
            self.replayer(spans, records, batch.pixels, self.views_per_image)
            return batch

        return replay


class _Locate(Operation):
    """FFCV decoder that decodes nothing: it says where each sample's bytes lie, (B, 3) uint64 index, address, size."""

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, None]:
        return replace(previous_state, jit_mode=False, shape=(3,), dtype=np.dtype("uint64")), None

    def generate_code(self) -> Callable:
        find = self.memory_read

        def locate(indices: np.ndarray, memory: None, regions: dict[str, np.ndarray], storage: tuple) -> np.ndarray:
            addresses = find(regions["data_ptr"][indices], storage)
            return np.stack([indices.astype(np.uint64), addresses, regions["data_size"][indices]], axis=1)

        return locate


class _Opened(Reader):
    """FFCV's reader of a beton that is open already, and of its images only."""

    def __init__(self, images: ImageBeton) -> None:
        self._fname = str(images.path)
        self.num_samples, self.page_size = images.num_images, images.page_size
        self.handlers = {"image": RGBImageField()}  # whatever the mode: _Locate only asks where the bytes are
        self.metadata = {"f0": {"data_ptr": images.data_ptr, "data_size": images.data_size}}


class _MappedFile(OSCacheManager):
    """The file through the operating system's cache."""

    def __init__(self, images: ImageBeton) -> None:
        self.ptrs, self.sizes = images.data_ptr, images.data_size
        self.context = OSCacheContext(self)
        self.context.mmap = images.memmap

    def compile_reader(self) -> Callable[[np.ndarray, tuple], np.ndarray]:
        """Addresses (B,) uint64 in the file → in memory."""
        return lambda addresses, state: addresses + np.uint64(state[0].ctypes.data)


class _OwnPages(ProcessCacheManager):
    """The file's pages in memory of this process."""

    def __init__(self, pages: PageCache) -> None:
        self.pages = pages

    def schedule_epoch(self, batches: Sequence[np.ndarray]) -> PagePlan:
        """The pages for these batches, whose image indices are (B,) each."""
        return PagePlan(self.pages, compute_schedule(self.pages.pages_of(batches)))

    def compile_reader(self) -> Callable[[np.ndarray, tuple], np.ndarray]:
        """Addresses (B,) uint64 in the file → in memory, of pages that are there."""

        def read(addresses: np.ndarray, state: tuple) -> np.ndarray:
            memory, page_to_slot = state
            size = np.uint64(memory.shape[1])
            slots = page_to_slot[addresses // size]
            return np.uint64(memory.ctypes.data) + slots * size + addresses % size

        return read


class _Graph(Graph):
    """FFCV's graph of operations, none of which it compiles."""

    def group_operations(self) -> list[list[int]]:
        """An empty stage to be compiled, then one of all nodes, in their order."""
        return [[], list(self.id_to_node)]

    def codegen_stage(self, *arguments: Any) -> tuple[Callable, list[int]]:
        """The stage's function, out of the namespace it was made in: in there it would hold itself and, until the
        collector comes, the operations with their scratch memory."""
        stage, nodes = super().codegen_stage(*arguments)
        del stage.__globals__[stage.__name__]
        return stage, nodes


_one_at_a_time = threading.Lock()
"""FFCV numbers the nodes of all graphs by one counter."""


class BetonLoader(Loader):
    """FFCV's Loader of an opened image beton, which makes one batch when it is asked to, in the thread that asks.

    pages: of the images, to be read into this process; None: through the memory map.
    """

    __iter__ = None  # a BatchStream iterates

    def __init__(self, images: ImageBeton, order: EpochOrder, replay: Replay, pages: PageCache | None) -> None:
        self.reader = _Opened(images)
        self.memory_manager = _MappedFile(images) if pages is None else _OwnPages(pages)
        self.traversal_order, self.batch_size = order, order.settings.batch_size
        specs = {"image": PipelineSpec("image", decoder=_Locate(), transforms=[replay])}
        find = self.memory_manager.compile_reader()
        with _one_at_a_time:
            self.graph = _Graph(specs, self.reader.handlers, {"image": 0}, self.reader.metadata, find)
        self.generate_code()

    def batches(self, epoch: int, first: int) -> list[np.ndarray]:
        """The images of an epoch's batches, (B,) int64 each, without the ``first`` ones."""
        self.next_epoch = epoch
        return list(chunks(self.next_traversal_order(), self.batch_size))[first:]

    def storage(self, batches: Sequence[np.ndarray]) -> AbstractContextManager:
        """Where the bytes of these batches come from, to be entered before the first one is made."""
        return self.memory_manager.schedule_epoch(batches)

    def make(self, number: int, index: np.ndarray, side: int, storage: Any, buffers: HostBatch, slot: int) -> HostBatch:
        """Batch ``number`` of those of ``storage``, whose images are ``index`` (B,), in a slot of the buffers; the
        pixels (B, side, side, 3) at the beginning of theirs.

        As FFCV's ``EpochIterator.run_pipeline``.
        """
        storage.start_batch(number)
        stages, (last,) = self.code
        nodes = self.graph.id_to_node
        batch = HostBatch(*select_buffer(buffers, slot, len(index)))
        shape = len(index), side, side, 3
        batch = batch._replace(pixels=batch.pixels.ravel()[: prod(shape)].reshape(shape))
        arguments = {
            "batch_indices": index,
            "metadata": self.reader.metadata,
            "storage_state": storage.state,
            **{f"memory_{node}": None for node in nodes},
            **{f"shared_memory_{node}": None for node in nodes},
            f"memory_{last}": batch,
        }
        for stage, results in stages:
            for node, result in zip(results, stage(**arguments), strict=True):
                arguments[f"result_{node}"] = result
        return arguments[f"result_{last}"]
