"""``ffdr export``: a reinforced beton becomes an archive of the published format, for users of the original code.

Importing the archive gives the same records and logits, bit for bit. Where the format's own values would not (the
format counts boxes in pixels of the output, ffdr in fractions of 1/65535; several levels of Posterize have one
magnitude), the sample holds the record itself under a key of its own, which the original code does not look at.

The format can't hold, and export refuses, naming the first such view:

- a reinforcement for which teachers saw several resolutions (give ``--export.resolution``);
- crops that are not whole pixels of the original image; padded crops, unless images are square, of the resolution's
  size, and have one border; views cropped in different ways in one file;
- levels in TrivialAugmentWide's ranges, or in other bins than the policy's;
- probabilities of a view that sum to more than 1.001, or one below 1e-323.
"""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ffdr.augment.policy import Policy
from ffdr.augment.view import CENTER, FRACTION, PLACED
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.read import ImageBeton, ReinforcedBeton, check_intact
from ffdr.config.files import ExportOptions
from ffdr.mldr import format as names
from ffdr.mldr.columns import whole
from ffdr.mldr.container import EntryError, zip_around
from ffdr.mldr.format import Format, augmentation
from ffdr.mldr.samples import Rules, Stored, to_entries
from ffdr.mldr.source import CONFIG, is_of_archive, name_of
from ffdr.util.atomic import lock, os_errors_as_user_errors, partial_path, sync_folder
from ffdr.util.errors import UserError
from ffdr.util.opening import (
    check_final,
    open_folder,
    open_kept,
    open_new,
    own_folder,
)
from ffdr.util.text import (
    byte_size,
    command,
    ending,
    join_list,
    printable,
    say,
)
from ffdr.write.copy import contents
from ffdr.write.partial import is_finished
from ffdr.write.parts import check_out
from ffdr.write.receipt import Work

Put = Callable[[str, bytes], None]
"""Writes one file of the archive: its name and its bytes."""
_CHUNK_VIEWS = 8192
_FOLDER = "reinforced_data"
"""Name of the folder in a tar file, as in the published ones."""
_CROPS = {crop: transforms for transforms, crop in names.CROPS.items()}


def export_archive(options: ExportOptions, progress: bool = True) -> Path:
    """Write the archive: a folder, or a .tar.gz file; equal betons give equal bytes. What is there is not made again.

    Returns its path.

    Raises:
        UserError: files that don't fit together, views that the format can't hold, a place that can't be written; an
            archive of other work that is there already, and ``overwrite`` is false.
    """
    images = ImageBeton.open(options.images)
    reinforced = ReinforcedBeton.open(options.reinforced, images)
    out = Path(options.out)
    check_out(out, [images.path, reinforced.path], may_be_folder=True)
    try:
        form = _format(reinforced, images, options.resolution)
    except EntryError as error:
        raise UserError(f"{reinforced.path}: {error}") from None
    read = {"reinforced": contents(reinforced), "images": contents(images)}
    work = Work(out, "export", options.overwrite, {"resolution": form.resolution}, read, repr(form).encode())
    is_there = is_finished(work)
    if not is_there:
        _check_replaceable(out)
        work.check_beside()
        _write_archive(reinforced, images, form, work, progress)
    _clear_aside(out)
    if progress:
        said = f"{len(images):,} images with {reinforced.header.views:,} views each, {byte_size(_size(out))}"
        back = command("import", f"--archive={join_list([str(out)])}", f"--images={images.path}", "--out=BACK.beton")
        say(ending([(out, said, is_there)], back))
    return out


def _check_replaceable(out: Path) -> None:
    """Refuse to replace a device, or a folder that is not just an archive."""
    check_final(out, may_be_folder=True)
    if out.is_dir():
        other = next((entry.name for entry in os.scandir(out) if not is_of_archive(entry.name)), None)
        if other is not None:
            raise UserError(
                f"{out}: holds {printable(other)}, which is no file of an archive; remove the folder or name another"
            )


def _size(out: Path) -> int:
    """Bytes of an archive."""
    return sum(file.stat().st_size for file in os.scandir(out)) if out.is_dir() else out.stat().st_size


def _write_archive(reinforced: ReinforcedBeton, images: ImageBeton, form: Format, work: Work, progress: bool) -> None:
    header, out = reinforced.header, work.out
    rules = Rules(form, header.views, header.topk, header.num_classes, images.original_sizes)
    packed = out.name.endswith((".tar.gz", ".tgz"))
    with os_errors_as_user_errors(out), (_tar_at if packed else _folder_at)(work) as put:
        put(name_of(CONFIG), zip_around(pickle.dumps(_config(form, header, images), 2)))
        with tqdm(total=len(images), unit="img", desc=printable(out.name), disable=not progress) as bar:
            for stored in _chunks(reinforced):
                try:
                    entries = to_entries(stored, rules)
                except EntryError as error:
                    raise UserError(f"{reinforced.path}: {error}") from None
                for entry in entries:
                    put(name_of(entry[0]), zip_around(pickle.dumps(entry, 4)))
                bar.update(len(entries))


def _format(reinforced: ReinforcedBeton, images: ImageBeton, resolution: int) -> Format:
    """What the first view shows, and what the policy says, of the archive to be."""
    header = reinforced.header
    side = resolution or header.resolution
    if not side:
        raise EntryError("its teachers saw several resolutions; give export.resolution, at which boxes count in pixels")
    first = reinforced.views(0)[0]
    view = first["first"] if header.mixes else first
    flags, short, padding = int(view["flags"]), 0, 0
    if flags & CENTER:
        crop = names.PLACED if flags & PLACED else names.CENTER
        short = round(side * FRACTION / max(int(view["crop_w"]), 1))
        padding = int(whole(view["pad"], side)) if crop == names.PLACED else 0
    else:
        crop = names.PADDED if view["pad"] else names.RESIZED
        padding = int(whole(view["pad"], int(images.original_sizes[0, 0])))
    others = ("uint8", "random_horizontal_flip", "rand_augment", "to_tensor", "random_erase", "normalize")
    used = {*_CROPS[crop], *others, *(names.MIXING if header.mixes else ())}
    transforms = tuple(name for name in names.TRANSFORMS if name in used)
    return Format(transforms, crop, side, short, padding, replace(_policy(header), ops=2))


def _policy(header: ReinforcedHeader) -> Policy:
    try:
        return Policy(**header.policy)
    except TypeError:  # a setting of another name
        raise EntryError("its policy is not one that ffdr draws from") from None
    except UserError as error:
        raise EntryError(str(error)) from None


def _config(form: Format, header: ReinforcedHeader, images: ImageBeton) -> dict[str, Any]:
    """What ``config.pth.tar`` holds."""
    return {
        "num_classes": header.num_classes,
        "teacher": {"name": ",".join(header.teachers)},
        "reinforce": {
            "num_samples": header.views,
            "topk": header.topk,
            "compress": True,
            "joblib": False,
            "image_augmentation": augmentation(form, images.mean, images.std),
        },
    }


def _chunks(reinforced: ReinforcedBeton) -> Iterator[Stored]:
    """All images, some at a time. Raises UserError for one whose checksum is wrong."""
    count = len(reinforced)
    step = max(1, _CHUNK_VIEWS // reinforced.header.views)
    for start in range(0, count, step):
        index = np.arange(start, min(start + step, count))
        for i in index.tolist():
            check_intact(reinforced, i)
        views = np.stack([reinforced.views(i) for i in index.tolist()])
        ids, log_probs = (np.stack(part) for part in zip(*map(reinforced.logits, index.tolist()), strict=True))
        yield Stored(index, views, ids, log_probs)


@contextmanager
def _folder_at(work: Work) -> Iterator[Put]:
    """Files go to a folder of another name, which is renamed when all is well."""
    partial = partial_path(work.out)
    own_folder(partial)
    with _claimed(work, open_folder(partial), shutil.rmtree):
        for file in partial.iterdir():
            file.unlink()  # of a run that was killed
        yield lambda name, data: _write(partial / name, data)
        sync_folder(partial)


def _write(path: Path, data: bytes) -> None:
    with open_new(path) as file:
        file.write(data)


@contextmanager
def _tar_at(work: Work) -> Iterator[Put]:
    """Files go into a tar file of another name, which is renamed when all is well."""
    work.out.parent.mkdir(parents=True, exist_ok=True)
    with open_kept(partial_path(work.out)) as file, _claimed(work, os.dup(file.fileno()), os.unlink):
        file.truncate(0)
        with gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as stream:

            def put(name: str, data: bytes) -> None:
                member = tarfile.TarInfo(f"{_FOLDER}/{name}")
                member.size = len(data)
                stream.write(member.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE))

            yield put
            stream.write(bytes(2 * tarfile.BLOCKSIZE))
        file.flush()
        os.fsync(file.fileno())


def _publish(work: Work) -> None:
    """Give the finished archive its final name. No folder can be renamed over another, so the old one goes aside."""
    out, partial = work.out, partial_path(work.out)
    work.leave(partial)
    goes_aside = out.is_dir() or (partial.is_dir() and os.path.lexists(out))
    if goes_aside:
        _clear_aside(out)
        os.rename(out, _aside(out))
    try:
        os.replace(partial, out)
    except OSError:
        if goes_aside:
            os.rename(_aside(out), out)
        raise
    sync_folder(out.parent)


def _aside(out: Path) -> Path:
    return out.with_name(out.name + ".partial.replaced")


def _clear_aside(out: Path) -> None:
    """Remove what this run has replaced, or one that was killed then."""
    aside = _aside(out)
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink(missing_ok=True)


@contextmanager
def _claimed(work: Work, descriptor: int, remove: Callable[[Path], None]) -> Iterator[None]:
    """Hold the lock of an open partial file or folder, publish it, and close it.

    On any failure before it is finished the partial is removed; a finished one that can't get its name is kept.
    """
    partial = partial_path(work.out)
    try:
        lock(descriptor, partial, work.out)
        try:
            yield
        except BaseException:
            remove(partial)
            raise
        _publish(work)
    finally:
        os.close(descriptor)
