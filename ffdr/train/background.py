"""Files written beside the training, by a thread: a checkpoint of a large model takes seconds to reach the disk."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch


class BackgroundWriter:
    """Inside its context, writes in a thread, one file after another; outside, at once.

    What fails is raised by the next call, at the latest when the context ends, by when everything is written.
    """

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._pending: Future | None = None

    def __enter__(self) -> BackgroundWriter:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        thread, self._thread = self._thread, None
        assert thread is not None
        thread.shutdown(wait=True)
        pending, self._pending = self._pending, None
        if pending is not None and error is None:
            pending.result()

    def write(self, function: Callable[[], object]) -> None:
        """Call it; the one before has ended by then, so that no more than one file's content waits in memory."""
        self.wait()
        if self._thread is None:
            function()
        else:
            self._pending = self._thread.submit(function)

    def wait(self) -> None:
        """Return when everything is written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def snapshot(state: Any) -> Any:
    """Nested dicts, lists and tuples with every tensor copied to the CPU, so that training may go on."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: snapshot(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(snapshot(value) for value in state)
    return state
