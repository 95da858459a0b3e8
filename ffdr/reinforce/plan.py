"""What a reinforcement will be: its header, its shards, what decides its bytes, and whether it is there already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ffdr.augment.policy import Policy
from ffdr.beton.header import ReinforcedHeader, effects_of
from ffdr.beton.read import ImageBeton
from ffdr.config.learning import ReinforceOptions, TeacherOptions
from ffdr.reinforce import shards
from ffdr.reinforce.function_members import function_members
from ffdr.reinforce.functions import FunctionTeacher, without_functions
from ffdr.reinforce.member_options import options_of_members
from ffdr.reinforce.teacher import Teacher, parse_models
from ffdr.util.errors import UserError
from ffdr.util.opening import check_folder
from ffdr.util.ranks import Ranks
from ffdr.write.copy.copying import digest
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


def make_plan(
    options: ReinforceOptions,
    policy: Policy,
    teacher_options: TeacherOptions,
    ranks: Ranks,
    functions: Sequence[FunctionTeacher] = (),
) -> Plan:
    """Open the images, load the teacher, and check all that can be checked before any work.

    Raises:
        UserError: see ``generate``.
    """
    out, images = Path(options.out), ImageBeton.open(options.images)
    labels = [function.label for function in functions]
    named = without_functions(teacher_options.models, labels)
    parsed = parse_models(named) if named or not labels else []
    check_out(out, [images.path, *(Path(file) for _, file in parsed if file)])
    names = [name for name, _ in parsed]
    members_options = options_of_members(names, teacher_options.options)
    known = _known_options(options, policy, images, [*names, *labels], members_options)
    work = Work(out, "reinforce", options.overwrite, known, {"images": digest(images)})
    if not _is_done(work, ranks):  # as far as that is known without the teacher, which takes long to load
        check_writable(out)
        check_folder(shards.folder_of(out))
    if options.resolution:
        teacher_options = replace(teacher_options, resolution=options.resolution)
    batches = images.num_images * options.views // (teacher_options.batch_size * ranks.size)
    device = ranks.device()
    members = function_members(functions, teacher_options, images, device)
    teacher = Teacher.from_options(teacher_options, images.num_classes, device, batches, images, members)
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
    options: ReinforceOptions,
    policy: Policy,
    images: ImageBeton,
    teachers: Sequence[str],
    members_options: Sequence[Sequence[str]],
) -> dict[str, Any]:
    """What of the work is known, and named in messages, before the teacher is there."""
    topk = min(options.topk, images.num_classes)
    known: dict[str, Any] = {"views": options.views, "topk": topk, "seed": options.seed}
    if options.resolution:
        known["resolution"] = options.resolution
    known["teacher.models"] = list(teachers)
    if any(members_options):
        known["teacher.options"] = [f"{n}:{text}" for n, texts in enumerate(members_options) for text in texts]
    return known | {f"policy.{key}": value for key, value in policy.settings().items()}


def _header(options: ReinforceOptions, policy: Policy, images: ImageBeton, teacher: Teacher) -> ReinforcedHeader:
    sides = {member.resolution for member in teacher.members}
    return ReinforcedHeader(
        num_images=images.num_images,
        views=options.views,
        topk=min(options.topk, images.num_classes),
        num_classes=images.num_classes,
        mixes=policy.mixes,
        policy=policy.settings(),
        teachers=teacher.signatures(),
        resolution=sides.pop() if len(sides) == 1 else 0,
        seed=options.seed,
        effects=effects_of(policy),
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
