"""``ffdr reinforce``: draw views, replay them, label them, store them; on one process or, by torchrun, on many.

Each rank makes whole shards (``shards.py``) and leaves them in ``OUT.shards``; rank 0 also puts finished shards into
``OUT``. Nothing that decides a byte depends on the number of ranks, or on where a killed run stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from ffdr.augment.policy import Policy
from ffdr.config.idle import idle_policy
from ffdr.config.learning import ReinforceOptions, TeacherOptions
from ffdr.reinforce import agreement, estimate, fidelity
from ffdr.reinforce.collect import SEEN_WITHIN, Collector
from ffdr.reinforce.functions import FunctionTeacher
from ffdr.reinforce.labelling import Labeller
from ffdr.reinforce.plan import Plan, make_plan
from ffdr.reinforce.shards import ShardFolder
from ffdr.util.errors import UserError
from ffdr.util.ranks import Ranks
from ffdr.util.text import say, warn
from ffdr.write import closing
from ffdr.write.reinforced import ReinforcedWriter

_REPORTED_VIEWS = 256
"""Views about which fidelity and agreement are reported at the end."""


def generate(
    options: ReinforceOptions,
    policy: Policy,
    teacher_options: TeacherOptions,
    progress: bool = True,
    functions: Sequence[FunctionTeacher] = (),
) -> Path:
    """Write the reinforced beton that the options ask for; a killed run resumes where it stopped, and what is there
    already is not made again.

    progress: show a progress bar, and at the end what storage costs (``fidelity.py``), how far each teacher agrees with
    the labels (``agreement.py``) and what was made. functions: those that ``teacher_options.models`` has labels of.

    Returns its path. Every rank returns when there is nothing left for it to do; rank 0 when the file is complete.

    Raises:
        UserError: unreadable images, an impossible teacher, options that don't fit together, a disk too small, a file
            of other work that is there already (and ``overwrite`` is false).
    """
    with Ranks.join() as ranks:
        if ranks.rank == 0:
            for line in idle_policy(policy):
                warn(line)
        plan = make_plan(options, policy, teacher_options, ranks, functions)
        if not plan.is_done:
            threads = ranks.threads(options.workers)
            labeller = Labeller(plan.images, policy, plan.header, plan.teacher, threads)
            if options.dry_run:
                text = estimate.describe(plan.out, labeller, plan.shards, ranks.size)  # all ranks at once, as for real
                if ranks.rank == 0:
                    say(text)
                return plan.out
            if ranks.rank == 0:
                _lead(plan, labeller, ranks, progress)
            else:
                _follow(plan, labeller, ranks)
        if progress and ranks.rank == 0:
            closing.announce([plan.out], plan.images.path, plan.out, done=[plan.out] if plan.is_done else [])
    return plan.out


def _lead(plan: Plan, labeller: Labeller, ranks: Ranks, progress: bool) -> None:
    """Rank 0: find out what is missing, help to make it, put it together, and report on the teacher."""
    estimate.check_space(plan.out, plan.header, ranks.size)
    folder = _shard_folder(plan)
    with (
        ReinforcedWriter(plan.out, plan.header, plan.images, plan.identity, plan.work) as writer,
        tqdm(total=len(plan.images), initial=writer.done, unit="img", desc="reinforce", disable=not progress) as bar,
    ):
        collector = Collector(writer, folder, bar)
        folder.create()
        collector.collect_all()
        written = writer.written
        missing = [n for n, shard in enumerate(plan.shards) if not written[shard.start : shard.stop].all()]
        ranks.broadcast((folder.work, missing))
        _make_shards([plan.shards[n] for n in missing], labeller, folder, ranks, collector.collect)
        collector.collect_rest()
        folder.remove()
        writer.finish()
    predictions = labeller.sampler.predictions(plan.teacher, _REPORTED_VIEWS)
    if progress:
        say(fidelity.table(predictions.ensemble, plan.header.topk))
        say(agreement.table(predictions))
    agreement.warn(predictions)


def _follow(plan: Plan, labeller: Labeller, ranks: Ranks) -> None:
    """Every other rank: help to make what rank 0 found missing."""
    folder = _shard_folder(plan)
    work, missing = ranks.broadcast(None)
    if work != folder.work:
        raise UserError(f"rank {ranks.rank}: its options, images or teacher are not those of rank 0")
    end = time.monotonic() + SEEN_WITHIN
    while not folder.path.is_dir():
        if time.monotonic() > end:
            raise UserError(f"{folder.path}: rank {ranks.rank} can't see it; ranks share a file system")
        time.sleep(0.5)
    _make_shards([plan.shards[n] for n in missing], labeller, folder, ranks, lambda: None)


def _shard_folder(plan: Plan) -> ShardFolder:
    return ShardFolder(plan.out, plan.header, plan.identity, len(plan.shards[0]))


def _make_shards(
    missing: list[range], labeller: Labeller, folder: ShardFolder, ranks: Ranks, then: Callable[[], None]
) -> None:
    """Take part in making shards until all ranks have ended; ``then`` is called after each and while waiting."""
    for shard in labeller.label(missing[i] for i in ranks.claim(len(missing))):
        folder.write(shard)
        then()
    ranks.wait_for_all(then)
