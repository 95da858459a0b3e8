"""An image beton of ``Items``, whose labels are known only once they are read: datasets that Python code brings along.

Worker processes read them by their numbers where they can: the length is known, all classes are wanted whole, and the
dataset can be sent to them. Else this process reads, and workers encode what they are sent. What can only be read from
the beginning on is read so again by a run that goes on, and compared with what the journal says of it.
"""

from __future__ import annotations

import json
import pickle
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ffdr.beton.manifest import manifest_path
from ffdr.codec.jpeg import coefficients
from ffdr.config.files import WriteOptions
from ffdr.data import Items
from ffdr.data.objects import UNREAD, ObjectItem, digest_of, place
from ffdr.util.errors import UserError
from ffdr.util.text import reason
from ffdr.write.encode import Chunk, Encoder
from ffdr.write.image_writer import ImageWriter, facts_of, options_in_manifest, versions
from ffdr.write.receipt import Work
from ffdr.write.streaming import CHUNK, in_chunks

_COMPARED = 64
"""Items at most, evenly spread, by which contents are recognised; of what is read once only, a quarter, the first."""
_MOST_AT_ONCE = 1 << 24
"""Bytes of the images of a portion after which it is full."""
_MOST_SENT = 1 << 27
"""Bytes of a dataset that is sent to every worker."""


class ItemWriter(ImageWriter):
    """An image beton of items."""

    def __init__(self, options: WriteOptions, items: Items) -> None:
        self.items = items
        self.is_stream = items.length is None or options.per_class > 0
        self.ahead = _Ahead(_selected(items, options.per_class) if self.is_stream else iter(()))
        self.digests: list[str] = []
        """Of the portions of a stream that an earlier run has done."""
        if items.length == 0 or (self.is_stream and not self.ahead.peek(1)):
            raise UserError("dataset: it has no images")
        work = _work(options, items, self._state())
        super().__init__(work, options, None if self.is_stream else items.length, items.length or 0)

    def _state(self) -> str:
        if self.is_stream:
            return digest_of(self.ahead.peek(_COMPARED // 4))
        compared = min(self._length, _COMPARED)
        return digest_of([self._item(i * self._length // compared) for i in range(compared)])

    @property
    def _length(self) -> int:
        assert self.items.length is not None
        return self.items.length

    def _item(self, i: int) -> Any:
        return self.items.item(i)

    def _to_do(self) -> Iterable[Sequence[Any]]:
        if self.is_stream:
            return self._portions_of_stream()
        numbers = in_chunks(range(self.done, self._length))
        return numbers if self._is_sent(len(numbers)) else ([*map(self._item, portion)] for portion in numbers)

    def _is_sent(self, portions: int) -> bool:
        """Whether so many portions are read where they are encoded: here, or by workers to whom the dataset is sent."""
        return min(self.processes, portions) <= 1 or bool(self._pickled)

    @cached_property
    def _pickled(self) -> bytes:
        """The dataset for the workers, if they read it."""
        return b"" if self.is_stream or self.processes <= 1 else _pickled(self.items)

    def _portions_of_stream(self) -> Iterator[list[ObjectItem]]:
        """What no earlier run has done; all before it is read, too.

        Raises:
            UserError: the stream gives other items than it gave that run.
        """
        done = deque(self.digests)
        for portion in _portions(self.ahead):
            if not done:
                yield portion
            elif digest_of(portion) != done.popleft():
                self._refuse(f"from {portion[0].place} to {portion[-1].place} are not")
        if done:
            self._refuse("has fewer items than")

    def _refuse(self, what: str) -> None:
        raise UserError(
            f"{self.out}: the dataset {what} what an interrupted run has read; "
            f"remove {self.partial.path} to start afresh"
        )

    def _learned_from(self) -> Sequence[Any]:
        # The first ones, whatever it is: a list and a stream of the same images become the same bytes.
        if self.is_stream:
            return self.ahead.peek(coefficients.SAMPLED)
        first = range(min(coefficients.SAMPLED, self._length))
        return first if self._is_sent(len(first)) else [*map(self._item, first)]

    def _item_of(self) -> _Reader:
        return _Reader(self.items, self._pickled)

    def _task(self) -> Encoder:
        return (_DigestingEncoder if self.is_stream else Encoder)(self._item_of(), self.options, self.coding)

    def _count(self, chunk: Chunk) -> None:
        super()._count(chunk)
        self.digests.append(chunk.digest)

    def _name(self, image: Any) -> str:
        return image.place if isinstance(image, ObjectItem) else f"item {image}"

    def _place(self, origin: str) -> str:
        return place(origin)

    def _class_names(self, samples: np.ndarray) -> list[str]:
        return self.items.names or [str(number) for number in range(int(samples["label"].max()) + 1)]


def _work(options: WriteOptions, items: Items, state: str) -> Work:
    """What decides the bytes of the file: options, versions, and what the items say of themselves. state: of some."""
    out, known = Path(options.out).expanduser(), items.facts()
    return Work(
        out,
        "write",
        options.overwrite,
        options=options_in_manifest(options) | known | versions(),
        sources={"dataset": state},
        identity=json.dumps(facts_of(options) | {"known": known}, sort_keys=True).encode(),
        beside=(manifest_path(out),),
    )


def _selected(items: Items, per_class: int) -> Iterator[ObjectItem]:
    """The first ``per_class`` items of each class, or all for 0; items that can't be read have no class."""
    full, found = 0, Counter[int]()
    for item in items.items():
        found[item.label] += 1
        if not per_class or item.label == UNREAD or found[item.label] <= per_class:
            yield item
        full += item.label != UNREAD and found[item.label] == per_class > 0
        if items.names and full == len(items.names):
            return


def _portions(items: Iterator[ObjectItem]) -> Iterator[list[ObjectItem]]:
    """Items in portions of ``CHUNK``, of fewer large ones: always the same for the same items."""
    portion: list[ObjectItem] = []
    for item in items:
        portion.append(item)
        if len(portion) == CHUNK or sum(item.nbytes for item in portion) >= _MOST_AT_ONCE:
            yield portion
            portion = []
    if portion:
        yield portion


class _Ahead(Iterator[ObjectItem]):
    """An iterator whose next items can be looked at before they are taken."""

    def __init__(self, items: Iterator[ObjectItem]) -> None:
        self._items = items
        self._seen: deque[ObjectItem] = deque()

    def peek(self, count: int) -> list[ObjectItem]:
        """The next ones, so many if there are."""
        self._seen += islice(self._items, max(0, count - len(self._seen)))
        return [*islice(self._seen, count)]

    def __next__(self) -> ObjectItem:
        return self._seen.popleft() if self._seen else next(self._items)


class _Reader:
    """Items by their numbers; those that were read already as they are. Where it is pickled, it holds bytes."""

    def __init__(self, items: Items | None, pickled: bytes) -> None:
        self.items, self.pickled = items, pickled

    def __reduce__(self) -> tuple:
        return _Reader, (None, self.pickled)

    def __call__(self, image: Any) -> Any:
        """An item. UserError where a worker can't open what it was sent."""
        if isinstance(image, ObjectItem):
            return image
        if self.items is None:
            try:
                self.items = pickle.loads(self.pickled)
            except Exception as error:  # whatever the code of the dataset raises
                raise UserError(
                    f"dataset: a worker process can't open it: {reason(error)}; workers=1 reads it in this process"
                ) from error
        return self.items.item(image)


class _DigestingEncoder(Encoder):
    """An encoder that says what it has read."""

    def __call__(self, portion: Sequence[ObjectItem]) -> Chunk:
        chunk = super().__call__(portion)
        chunk.digest = digest_of(portion)
        return chunk


def _pickled(items: Items) -> bytes:
    """Items as they are sent to workers; empty where they can't be, or not with little memory."""
    buffer = _Bounded()
    try:
        pickle.Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(items)
    except Exception:  # open files, locks, lambdas: each raises an error of its own kind
        return b""
    found = buffer.getvalue()
    return b"" if b"__main__" in found else found  # of the script itself workers know nothing


class _Bounded(BytesIO):
    def write(self, data: Any) -> int:
        if self.tell() + len(data) > _MOST_SENT:
            raise ValueError("too much")
        return super().write(data)
