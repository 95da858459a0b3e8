"""One run that makes one beton: what all verbs that do so (write, transcode, pack, split, subset) have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from ffdr.write import closing
from ffdr.write.partial import Partial, is_finished
from ffdr.write.receipt import Work


class ResumableRun(ABC):
    """A beton to be made. It goes on where a killed run of the same work has stopped, and ends with the same bytes."""

    partial: Partial
    """The file in the making, while it is made."""

    def __init__(self, work: Work, total: int) -> None:
        """Nothing is read or written yet.

        Args:
            work: what decides the bytes; the identity is known.
            total: how many images are wanted; 0: not known yet.

        Raises:
            UserError: the file is there, and of other work.
        """
        self.work, self.out, self.total = work, work.out, total
        self.done = 0
        """How many of the images are in the file, or known to be left out."""
        self.is_there = is_finished(work)

    def run(self, progress: bool) -> None:
        """Make what is missing, then finish; nothing where the file is there already.

        Raises:
            UserError: an image that can't be read or is damaged; another run is at work on the file.
            WriteError: the system fails, a full disk above all.
        """
        if self.is_there:
            return
        assert self.work.identity is not None, self.out
        with Partial(self.out, self.work.identity, self._is_complete, self.work) as self.partial:
            self._prepare(progress)
            title = f"{self.work.verb} {self.work.options.get('part', '')}".rstrip()  # which of split's files
            with self._bar(title, self.total, self.done, progress) as bar:
                for count in self._portions():
                    bar.update(count)
            self._finish()

    def _bar(self, title: str, total: int, done: int, progress: bool) -> tqdm:
        return tqdm(total=total or None, initial=done, unit="img", desc=title, disable=not progress)

    @abstractmethod
    def _is_complete(self, file: BinaryIO, record: bytes) -> bool:
        """Whether the images of a journal record are in the partial file; if so, counts them as done.

        Both may be anybody's.
        """

    @abstractmethod
    def _prepare(self, progress: bool) -> None:
        """What comes before the first new image: cut off what is in no record."""

    @abstractmethod
    def _portions(self) -> Iterator[int]:
        """Make what is missing; hands out the number of images of each portion once it is in the journal."""

    @abstractmethod
    def _finish(self) -> None:
        """Give the complete file its tables and its name (``parts.finish``)."""


def run_all(runs: Sequence[ResumableRun], progress: bool, images: Path | None, reinforced: Path | None = None) -> None:
    """Make betons one after the other; with ``progress``, print the line with which the verb ends.

    images, reinforced: betons that the next command is about; with both, they fit together.
    """
    for run in runs:
        run.run(progress)
    if progress:
        closing.announce([run.out for run in runs], images, reinforced, [run.out for run in runs if run.is_there])
