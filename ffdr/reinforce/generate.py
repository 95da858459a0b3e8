"""Make a reinforced beton: draw views, replay them, label them, store them; on one process or, by torchrun, on many.

Each rank makes whole shards (``shards.py``) and leaves them in ``OUT.shards``; rank 0 also puts finished shards into
``OUT``. Nothing that decides a byte knows of ranks, or of where a killed run stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ffdr.augment.policy import Policy
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.read import ImageBeton
from ffdr.config.idle import idle_policy
from ffdr.config.learning import ReinforceOptions, TeacherOptions
from ffdr.reinforce import agreement, estimate, fidelity, shards
from ffdr.reinforce.labelling import Labeller
from ffdr.reinforce.shards import ShardFolder
from ffdr.reinforce.teacher import Teacher, parse_models
from ffdr.util.errors import UserError
from ffdr.util.opening import check_folder
from ffdr.util.ranks import Ranks
from ffdr.util.text import say, warn
from ffdr.write import closing
from ffdr.write.copy import digest
from ffdr.write.partial import check_writable, is_finished
from ffdr.write.parts import check_out
from ffdr.write.receipt import Work
from ffdr.write.reinforced import ReinforcedWriter, identity_of

_SEEN_WITHIN = 90.0
"""Seconds within which a network file system shows one machine what another has written."""
_COLLECT_EVERY = 1.0
"""Seconds between two looks for finished shards; each ends in waiting for the disk."""
_FIDELITY_VIEWS = 256


def generate(options: ReinforceOptions, policy: Policy, teacher_options: TeacherOptions, progress: bool = True) -> Path:
    """Write the reinforced beton that the options ask for; a killed run goes on where it stopped, and what is there
    already is not made again.

    progress: show a progress bar, and at the end what storage costs (``fidelity.py``), how far each teacher agrees with
    the labels (``agreement.py``) and what was made.

    Returns its path. Every rank returns when there is nothing left for it to do; rank 0 when the file is complete.

    Raises:
        UserError: unreadable images, an impossible teacher, options that don't fit together, a disk too small, a file
            of other work that is there already (and ``overwrite`` is false).
    """
    with Ranks.join() as ranks:
        if ranks.rank == 0:
            for line in idle_policy(policy):
                warn(line)
        run = _Run(options, policy, teacher_options, ranks)
        if run.is_there:
            pass
        elif options.dry_run:
            text = estimate.describe(run.out, run.labeller, run.shards, ranks.size)
            if ranks.rank == 0:
                say(text)
        elif ranks.rank == 0:
            run.lead(progress)
        else:
            run.follow()
        if progress and ranks.rank == 0 and (run.is_there or not options.dry_run):
            closing.announce([run.out], run.images.path, run.out, done=[run.out] if run.is_there else [])
    return run.out


class _Run:
    """One rank's part."""

    def __init__(
        self, options: ReinforceOptions, policy: Policy, teacher_options: TeacherOptions, ranks: Ranks
    ) -> None:
        self.out, self.ranks = Path(options.out), ranks
        self.images = ImageBeton.open(options.images)
        checkpoints = [Path(file) for _, file in parse_models(teacher_options.models) if file]
        check_out(self.out, [self.images.path, *checkpoints])
        told = _told(options, policy, teacher_options, self.images)
        self.work = Work(self.out, "reinforce", options.overwrite, told, {"images": digest(self.images)})
        if not self._is_done():  # as far as that is known without the teacher, which takes long to load
            check_writable(self.out)
            check_folder(shards.folder_of(self.out))
        if options.resolution:
            teacher_options = replace(teacher_options, resolution=options.resolution)
        batches = self.images.num_images * options.views // (teacher_options.batch_size * ranks.size)
        teacher = Teacher.from_options(teacher_options, self.images.num_classes, ranks.device(), batches, self.images)
        self.header = _header(options, policy, self.images, teacher)
        self.shards = shards.cut(self.images.num_images, options.views, teacher.batch_size)
        self.identity = f"{teacher.identity()} of {digest(self.images)} in shards of {len(self.shards[0])}"
        told |= {"resolution": self.header.resolution, "teacher.weights": teacher.signatures()}
        told |= {"teacher.batch_size": teacher.batch_size, "device": teacher.device.type}
        self.work = replace(self.work, options=told, identity=identity_of(self.header, self.identity))
        self.is_there = self._is_done()
        if self.is_there:
            return
        self.folder = ShardFolder(self.out, self.header, self.identity, len(self.shards[0]))
        self.labeller = Labeller(self.images, policy, self.header, teacher, ranks.threads(options.workers))

    def _is_done(self) -> bool:
        """Whether the file is there already, as rank 0 finds it, which all ranks hear of.

        Raises:
            UserError: it is of other work.
        """
        found: bool | UserError = False
        if self.ranks.rank == 0:
            try:
                found = is_finished(self.work)
            except UserError as error:
                found = error
        found = self.ranks.broadcast(found)
        if isinstance(found, UserError):
            raise found
        return found

    def lead(self, progress: bool) -> None:
        """Rank 0: say what is missing, help to make it, put it together."""
        estimate.check_space(self.out, self.header, self.ranks.size)
        with (
            ReinforcedWriter(self.out, self.header, self.images, self.identity, self.work) as writer,
            self._bar(writer.done, progress) as bar,
        ):
            collector = _Collector(writer, self.folder, bar)
            self.folder.create()
            collector.collect_all()
            written = writer.written
            missing = [n for n, shard in enumerate(self.shards) if not written[shard.start : shard.stop].all()]
            self.ranks.broadcast((self.folder.work, missing))
            self._make(missing, collector.collect)
            collector.collect_rest()
            self.folder.remove()
            writer.finish()
        answers = self.labeller.views.answers(self.labeller.teacher, _FIDELITY_VIEWS)
        if progress:
            say(fidelity.table(answers.together, self.header.topk))
            say(agreement.table(answers))
        agreement.warn(answers)

    def _bar(self, done: int, progress: bool) -> tqdm:
        return tqdm(total=len(self.images), initial=done, unit="img", desc="reinforce", disable=not progress)

    def follow(self) -> None:
        """Every other rank."""
        work, missing = self.ranks.broadcast(None)
        if work != self.folder.work:
            raise UserError(f"rank {self.ranks.rank}: its options, images or teacher are not those of rank 0")
        end = time.monotonic() + _SEEN_WITHIN
        while not self.folder.path.is_dir():
            if time.monotonic() > end:
                raise UserError(f"{self.folder.path}: rank {self.ranks.rank} can't see it; ranks share a file system")
            time.sleep(0.5)
        self._make(missing, lambda: None)

    def _make(self, missing: list[int], then: Callable[[], None]) -> None:
        """Take part in making shards until all ranks have ended; ``then`` is called after each and while waiting."""
        mine = (self.shards[missing[i]] for i in self.ranks.claim(len(missing)))
        for labelled in self.labeller.label(mine):
            self.folder.write(labelled)
            then()
        self.ranks.wait_for_all(then)


class _Collector:
    """Moves finished shards into the file and shows how far it is."""

    def __init__(self, writer: ReinforcedWriter, folder: ShardFolder, bar: tqdm) -> None:
        self.writer, self.folder, self.bar = writer, folder, bar
        self._last = time.monotonic()

    def collect(self) -> None:
        """Collect, unless that was done a moment ago."""
        if time.monotonic() - self._last >= _COLLECT_EVERY:
            self.collect_all()
            self._last = time.monotonic()

    def collect_all(self) -> None:
        """Put what is finished into the file, make that survive the loss of power, and only then remove it."""
        taken = []
        for path, labelled in self.folder.finished():
            if labelled is not None:
                self.writer.put(labelled.index, labelled.views, labelled.ids, labelled.log_probs)
            taken.append(path)
        if not taken:
            return
        self.writer.sync()
        for path in taken:
            path.unlink()
        rate = self.bar.format_dict["rate"]
        if rate:
            self.bar.set_postfix_str(f"{rate * self.writer.header.views:,.0f} views/s", refresh=False)
        self.bar.update(self.writer.done - self.bar.n)

    def collect_rest(self) -> None:
        """When every rank has ended: also what a network file system is slow to show."""
        end = time.monotonic() + _SEEN_WITHIN
        self.collect_all()
        while self.writer.done < self.writer.header.num_images:
            if time.monotonic() > end:
                missing = int(np.flatnonzero(~self.writer.written)[0])
                raise UserError(f"{self.folder.path}: the shard of image {missing} is gone or damaged; start again")
            time.sleep(0.5)
            self.collect_all()


def _told(options: ReinforceOptions, policy: Policy, teacher: TeacherOptions, images: ImageBeton) -> dict[str, Any]:
    """What messages can tell of the work before the teacher is there."""
    told = {"views": options.views, "topk": min(options.topk, images.num_classes), "seed": options.seed}
    if options.resolution:
        told["resolution"] = options.resolution
    told["teacher.models"] = [name for name, _ in parse_models(teacher.models)]
    return told | {f"policy.{key}": value for key, value in asdict(policy).items()}


def _header(options: ReinforceOptions, policy: Policy, images: ImageBeton, teacher: Teacher) -> ReinforcedHeader:
    sides = {member.resolution for member in teacher.members}
    return ReinforcedHeader(
        num_images=images.num_images,
        views=options.views,
        topk=min(options.topk, images.num_classes),
        num_classes=images.num_classes,
        mixes=policy.mixes,
        policy=asdict(policy),
        teachers=teacher.signatures(),
        resolution=sides.pop() if len(sides) == 1 else 0,
        seed=options.seed,
        fingerprint=images.fingerprint,
    )
