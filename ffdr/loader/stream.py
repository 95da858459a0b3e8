"""Batches of replayed views, epoch after epoch, decoded in advance by a thread that can be stopped and replaced::

    producer thread (Pass.run)                            consumer (Pass.take)

    slot = batch number mod slots                         (slot, batch) = queue.get()
    wait: a GPU may still copy from it (in_use)           use(batch): copies, or asks a GPU to
    FFCV's pipeline writes the slot ── queue ───────────► in_use[slot] = what the GPU has been asked
                                       holds batches_ahead

    slots of the buffers:  │ read │ ahead │ ahead │ ahead │ written │      batches_ahead + 2

Batch n is written where batch n - (``batches_ahead`` + 2) was. By then all batches between them have been queued, one
more than the queue holds, so the first of these has been taken; and ``take`` gets the next batch only after ``use`` of
the one before has returned. What a GPU has not copied by then, ``in_use`` waits for.

Buffers, scratch memory and the thread belong to one pass at a time. ``BatchStream.begin`` hands them over, in this
order: it ends the pass before (its thread has stopped: nothing is written), waits until that pass's consumer is done
with the batch at hand (nothing is read), and only then starts the next one. A consumer reads a batch through a
function that it gives, within which nothing is written anew.

The thread runs FFCV's pipeline, a batch at a time (``ffcv_loader.py``); decoding takes Numba's threads (``replay/``).
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, Full, Queue
from typing import Any, TypeVar
from weakref import WeakSet

import numpy as np
import torch
from numba import set_num_threads

from ffdr.beton.read import ImageBeton
from ffdr.loader.ffcv_loader import BetonLoader, HostBatch, Replay
from ffdr.loader.order import EpochOrder
from ffdr.loader.pages import PageCache
from ffdr.loader.replay.replayer import Replayer
from ffdr.loader.settings import StreamSettings
from ffdr.loader.views import ViewSource
from ffdr.util.errors import UserError
from ffdr.util.machine import machine_memory
from ffdr.util.process import OneProcess, check_pool
from ffdr.util.text import byte_size, warn

Made = TypeVar("Made")


class BatchStream(OneProcess):
    """Replayed batches of one image beton.

    Args:
        images: image beton.
        views: records and targets of a batch.
        order: which image comes when, by these settings' order.
        settings: how batches are decoded.

    Raises:
        UserError: images or batches too large for this machine's memory.
    """

    noun, instead = "loader", "build a loader in each process"

    def __init__(self, images: ImageBeton, views: ViewSource, order: EpochOrder, settings: StreamSettings) -> None:
        super().__init__()
        check_pool()
        self.images, self.order, self.batches_ahead = images, order, settings.batches_ahead
        self.pages = None if settings.os_cache else PageCache(images)
        self.sides = settings.sides
        """Of the views of the coming pass: each batch has one of these."""
        replayer = Replayer(images, max(self.sides), settings.threads)
        self.replay = Replay(views, self._checked(replayer, settings.order.batch_size), settings.order.views_per_image)
        self.loader = BetonLoader(images, order, self.replay, self.pages)
        self.lock = threading.RLock()
        """Held while one pass replaces another."""
        self.buffers: HostBatch | None = None
        """(slots, …) each; made with the first pass, because a process chooses its GPU after its loaders"""
        self.in_use: list[torch.cuda.Event | None] = []
        """What a GPU must have done before a slot may be written again."""
        self._pass: Pass | None = None

    @property
    def replayer(self) -> Replayer:
        """Holds the scratch memory; it has the views' resolution, the largest of several."""
        return self.replay.replayer

    @property
    def slots(self) -> int:
        """Batches that there are buffers for: those ahead, the one being written and the one being read."""
        return self.batches_ahead + 2

    @property
    def memory_bytes(self) -> int:
        """Bytes of the batch buffers, the replayer's scratch and the pages that the current epoch holds."""
        buffers = sum(int(np.prod(shape)) * kind.itemsize for shape, kind in self._shapes())
        return buffers + self.replayer.memory_bytes + (self.pages.memory_bytes if self.pages else 0)

    def _checked(self, replayer: Replayer, batch_size: int) -> Replayer:
        """Refuse batches that this machine can't hold, before any is decoded: the system would end the process."""
        resolution = replayer.shape[0]
        needed = self.slots * min(batch_size, len(self.images)) * resolution**2 * 3
        present = machine_memory()
        if needed > present:
            raise UserError(
                f"loader: {self.slots} batches of {batch_size} views of {resolution}×{resolution} pixels need "
                f"{byte_size(needed)} of memory, this machine has {byte_size(present)}; take a smaller batch size"
            )
        return replayer

    def set_resolution(self, resolution: int) -> None:
        """Change the side of the views from the next pass on; ends an unfinished one. Compiles nothing.

        Raises:
            UserError: views too large for this machine's memory.
        """
        self.check_process()
        with self.lock:
            self.end()
            if self.replayer.shape[0] != resolution:
                replayer = Replayer(self.images, resolution, self.replayer.threads)
                self.replay.replayer = self._checked(replayer, self.loader.batch_size)
                for event in filter(None, self.in_use):
                    event.synchronize()  # a GPU may still copy from the buffers
                self.buffers = None
            self.sides = (resolution,)

    def begin(self, epoch: int, first_batch: int = 0, device: torch.device | None = None) -> Pass:
        """A pass over the batches of an epoch, from ``first_batch`` on. A pass that is under way ends.

        device: to which its consumer copies the batches, perhaps without waiting.

        Raises:
            RuntimeError: this process is a fork of the stream's; in the consumer of the older pass, from now on.
        """
        self.check_process()
        gpu = device if device is not None and device.type == "cuda" else None
        with self.lock:
            self.replayer.prepare(self.replay.views)
            self.end(RuntimeError("this pass was ended by a newer one over the same loader, which reads one at a time"))
            if self.buffers is None:
                self.buffers = self._allocate(gpu)
            self.replay.epoch = epoch
            sides = self.order.sides(self.sides, epoch)[first_batch:]
            self._pass = Pass(self, self.loader.batches(epoch, first_batch), sides, gpu)
            return self._pass

    def end(self, error: Exception | None = None) -> None:
        """End the pass that is under way, if there is one: its thread has stopped, its consumer reads no buffer.

        error: raised in a consumer that asks for more; None: it just ends.
        """
        if not self.is_at_home:
            return  # its thread is only in the other process
        with self.lock:
            if self._pass is not None:
                self._pass.close(error)
                with self._pass.reading:
                    self._pass = None

    def _shapes(self) -> list[tuple[tuple[int, ...], np.dtype]]:
        """Of each part of the buffers, and its dtype."""
        rows = self.slots, self.loader.batch_size
        return [((*rows, *shape), kind) for shape, kind in self.replay.parts]

    def _allocate(self, gpu: torch.device | None) -> HostBatch:
        """Buffers for this and all coming passes, pinned for a GPU."""
        if gpu is not None:
            torch.cuda.synchronize(gpu)  # the old ones may still be read
        pinned, parts = gpu is not None, []
        for shape, kind in self._shapes():
            try:
                part = torch.empty(shape, dtype=getattr(torch, kind.name), pin_memory=pinned)
            except RuntimeError:
                if not pinned:
                    raise MemoryError(f"{self.memory_bytes >> 20} MiB for a loader's batches") from None
                warn("loader: its buffers can't be pinned (ulimit -l?); copies to the GPU are slow")
                pinned = False
                part = torch.empty(shape, dtype=getattr(torch, kind.name))
            parts.append(part.numpy())
        self.in_use = [None] * self.slots
        return HostBatch(*parts)


class Pass(threading.Thread):
    """One pass: the thread that decodes ahead, and what its consumer calls."""

    def __init__(
        self, stream: BatchStream, batches: list[np.ndarray], sides: list[int], gpu: torch.device | None
    ) -> None:
        super().__init__(name="ffdr-decode", daemon=True)
        self.stream, self.batches, self.sides, self.gpu = stream, batches, sides, gpu
        self.reading = threading.RLock()
        """Held by the consumer while it reads a batch, or waits for one."""
        self.closed = False
        self.over = False
        """Nothing is left to close, be it when the names of modules are gone, at the end of Python."""
        self.error: BaseException | None = None
        self._stopping = threading.Event()
        self._ready: Queue[tuple[int, HostBatch] | None] = Queue(stream.batches_ahead)
        _running.add(self)
        self.start()

    def run(self) -> None:
        """The producer thread."""
        try:
            if self.gpu is not None:
                torch.cuda.set_device(self.gpu)  # a new thread's is GPU 0, on which it would open a context
            set_num_threads(self.stream.replayer.threads)
            with self.stream.loader.storage(self.batches) as storage:
                self._produce(storage)
        except BaseException as error:  # whatever it is, the consumer must see it rather than wait
            self.error = error
        self._put(None)

    def _produce(self, storage: Any) -> None:
        # Held by the thread alone: a pass that has ended must not keep buffers that the stream has replaced.
        buffers, in_use = self.stream.buffers, self.stream.in_use
        assert buffers is not None, "the stream has allocated them"
        for number, index in enumerate(self.batches):
            slot = number % len(in_use)
            copying = in_use[slot]
            if copying is not None:
                copying.synchronize()
            batch = self.stream.loader.make(number, index, self.sides[number], storage, buffers, slot)
            if not self._put((slot, batch)):
                return

    def _put(self, item: tuple[int, HostBatch] | None) -> bool:
        """Queue an item unless the consumer has gone; whether to go on."""
        while not self._stopping.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return not self._stopping.is_set()
            except Full:
                continue
        return False

    def take(self, use: Callable[[HostBatch], Made]) -> Made | None:
        """What ``use`` makes of the next batch's buffers, while they are not written; None at the end of the pass.

        Raises:
            RuntimeError: once, if a newer pass has begun; this process is a fork.
            UserError: once, what stopped the decoding.
        """
        self.stream.check_process()
        with self.reading:
            if not self.closed:
                item = self._ready.get()
                if item is not None and not self.closed:  # closed: by another thread, which has put the end there
                    slot, batch = item
                    made = use(batch)
                    if self.gpu is not None:  # what it was asked to do may not be done
                        self.stream.in_use[slot] = torch.cuda.current_stream(self.gpu).record_event()
                    return made
                self.close()
            error, self.error = self.error, None
            if error is not None:
                raise error
            return None

    def close(self, error: Exception | None = None) -> None:
        """Stop the producer and wait for it; safe to call again, from any thread and any process."""
        if self.over or not self.stream.is_at_home:
            return
        if threading.current_thread() is self:
            # The garbage collector found the iterator while it ran in this thread; locks may be held, so only:
            self._stopping.set()
            return
        if not self.closed:
            self.error = self.error or error
            self.closed = True
        self._stopping.set()
        self._drain()  # makes room for a producer that is blocked in put
        if self.is_alive():
            self.join()
            self._drain()
        with suppress(Full):
            self._ready.put_nowait(None)  # for a consumer that waits in another thread
        self.over = True

    def _drain(self) -> None:
        with suppress(Empty):
            while True:
                self._ready.get_nowait()


_running: WeakSet[Pass] = WeakSet()


@atexit.register
def _stop_all() -> None:
    """Threads that still decode while the interpreter is taken down would crash it."""
    for current in list(_running):
        current.close()
