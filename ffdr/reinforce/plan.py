"""What a reinforcement will be: its header, its shards, what decides its bytes, and whether it is there already."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ffdr.augment.policy import Policy
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.read import ImageBeton
from ffdr.config.learning import ReinforceOptions, TeacherOptions
from ffdr.reinforce import shards
from ffdr.reinforce.teacher import Teacher, parse_models
from ffdr.util.errors import UserError
from ffdr.util.opening import check_folder
from ffdr.util.ranks import Ranks
from ffdr.write.copy import digest
from ffdr.write.partial import check_writable, is_finished
from ffdr.write.parts import check_out
from ffdr.write.receipt import Work
from ffdr.write.reinforced import identity_of


@dataclass(frozen=True)
class Plan:
    """One reinforcement; the same on every rank, but for the teacher's device."""

    out: Path
    images: ImageBeton
    teacher: Teacher
    header: ReinforcedHeader
    shards: list[range]
    """the images of each"""
    identity: str
    """what decides the bytes, beside the header"""
    work: Work
    is_done: bool
    """whether the file is there already"""


def make_plan(options: ReinforceOptions, policy: Policy, teacher_options: TeacherOptions, ranks: Ranks) -> Plan:
    """Open the images, load the teacher, and check all that can be checked before any work.

    Raises:
        UserError: see ``generate``.
    """
    out, images = Path(options.out), ImageBeton.open(options.images)
    checkpoints = [Path(file) for _, file in parse_models(teacher_options.models) if file]
    check_out(out, [images.path, *checkpoints])
    known = _known_options(options, policy, teacher_options, images)
    work = Work(out, "reinforce", options.overwrite, known, {"images": digest(images)})
    if not _is_done(work, ranks):  # as far as that is known without the teacher, which takes long to load
        check_writable(out)
        check_folder(shards.folder_of(out))
    if options.resolution:
        teacher_options = replace(teacher_options, resolution=options.resolution)
    batches = images.num_images * options.views // (teacher_options.batch_size * ranks.size)
    teacher = Teacher.from_options(teacher_options, images.num_classes, ranks.device(), batches, images)
    header = _header(options, policy, images, teacher)
    cut = shards.cut(images.num_images, options.views, teacher.batch_size)
    identity = f"{teacher.identity()} of {digest(images)} in shards of {len(cut[0])}"
    known |= {
        "resolution": header.resolution,
        "teacher.weights": teacher.signatures(),
        "teacher.batch_size": teacher.batch_size,
        "device": teacher.device.type,
    }
    work = replace(work, options=known, identity=identity_of(header, identity))
    return Plan(out, images, teacher, header, cut, identity, work, _is_done(work, ranks))


def _known_options(
    options: ReinforceOptions, policy: Policy, teacher: TeacherOptions, images: ImageBeton
) -> dict[str, Any]:
    """What of the work is known, and named in messages, before the teacher is there."""
    topk = min(options.topk, images.num_classes)
    known: dict[str, Any] = {"views": options.views, "topk": topk, "seed": options.seed}
    if options.resolution:
        known["resolution"] = options.resolution
    known["teacher.models"] = [name for name, _ in parse_models(teacher.models)]
    return known | {f"policy.{key}": value for key, value in asdict(policy).items()}


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


def _is_done(work: Work, ranks: Ranks) -> bool:
    """Whether the file is there already, as rank 0 finds it; the same on all ranks.

    Raises:
        UserError: it is of other work.
    """
    found: bool | UserError = False
    if ranks.rank == 0:
        try:
            found = is_finished(work)
        except UserError as error:
            found = error
    found = ranks.broadcast(found)
    if isinstance(found, UserError):
        raise found
    return found
