"""``ffdr export``: a reinforced beton becomes an archive of the published format, for users of the original code.

Importing the archive gives the same records and logits, bit for bit (see ``entries.py``).

The format can't hold, and export refuses, naming the first such view:

- a reinforcement for which teachers saw several resolutions (give ``--export.resolution``);
- crops that are not whole pixels of the original image; padded crops, unless images are square, of the resolution's
  size, and have one border; views cropped in different ways in one file;
- levels in TrivialAugmentWide's ranges, or in other bins than the policy's;
- effects and vertical flips;
- probabilities of a view that sum to more than 1.001, or one below 1e-323.
"""

from __future__ import annotations

import gzip
import os
import pickle
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ffdr.archive.sizes import digest_of_other, original_sizes
from ffdr.archive.stored import StoredEntries
from ffdr.archive.torch_zip import EntryError, zip_around
from ffdr.augment.policy import Policy
from ffdr.augment.view import CENTER, FRACTION, PLACED
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.read import ImageBeton, ReinforcedBeton, check_intact
from ffdr.beton.records import first_views
from ffdr.config.files import ExportOptions
from ffdr.mldr.archive import CONFIG, index_of, name_of
from ffdr.mldr.entries import Schema, to_entries
from ffdr.mldr.export_views import pixels
from ffdr.mldr.format import (
    CENTER_CROP,
    CROPS,
    MIXING,
    PADDED_CROP,
    PLACED_CROP,
    RESIZED_CROP,
    TRANSFORMS,
    Format,
    augmentation,
)
from ffdr.util.atomic import (
    lock,
    os_errors_as_user_errors,
    partial_path,
    put_in_place,
    remove,
    replaced_path,
    sync_folder,
)
from ffdr.util.errors import UserError
from ffdr.util.opening import check_final, open_folder, open_kept, open_new, own_folder
from ffdr.util.text import byte_size, command, ending, join_list, printable, say
from ffdr.write.copy.copying import contents
from ffdr.write.partial import is_finished
from ffdr.write.parts import check_out
from ffdr.write.receipt import Work

WriteMember = Callable[[str, bytes], None]
"""Writes one file of the archive: its name and its bytes."""
_CHUNK_VIEWS = 8192
_FOLDER = "reinforced_data"
"""Name of the folder in a tar file, as in the published ones."""


def export_archive(options: ExportOptions, progress: bool = True) -> Path:
    """Write the archive: a folder, or a .tar.gz file; equal betons give equal bytes. What is there is not made again.

    Returns its path.

    Raises:
        UserError: files that don't fit together, views that the format can't hold, a place that can't be written; an
            archive of other work that is there already, and ``overwrite`` is false.
    """
    images = ImageBeton.open(options.images)
    reinforced = ReinforcedBeton.open(options.reinforced, images)
    out, read_in = Path(options.out), [Path(options.sizes).expanduser()] if options.sizes else []
    check_out(out, [images.path, reinforced.path, *read_in], may_be_folder=True)
    sizes = original_sizes(images, options.sizes, "export.sizes", progress)
    try:
        form = _format_of(reinforced, sizes, options.resolution)
    except EntryError as error:
        raise UserError(f"{reinforced.path}: {error}") from None
    read = {"reinforced": contents(reinforced), "images": contents(images)} | digest_of_other(options.sizes, sizes)
    work = Work(out, "export", options.overwrite, {"resolution": form.resolution}, read, repr(form).encode())
    is_there = is_finished(work)
    if not is_there:
        _check_replaceable(out)
        work.check_beside()
        _write_archive(reinforced, images, sizes, form, work, progress)
    remove(replaced_path(out))  # what this run has replaced, or one that was killed then
    if progress:
        files = os.scandir(out) if out.is_dir() else [out]
        size = byte_size(sum(file.stat().st_size for file in files))
        said = f"{len(images):,} images with {reinforced.header.views:,} views each, {size}"
        words = [f"--archive={join_list([str(out)])}", f"--images={images.path}"]
        words += [f"--sizes={options.sizes}"] if options.sizes else []
        back = command("import", *words, "--out=BACK.beton")
        say(ending([(out, said, is_there)], back))
    return out


def _check_replaceable(out: Path) -> None:
    """Refuse to replace a device, or a folder that is not just an archive."""
    check_final(out, may_be_folder=True)
    if out.is_dir():
        other = next((entry.name for entry in os.scandir(out) if index_of(entry.name) is None), None)
        if other is not None:
            raise UserError(
                f"{out}: holds {printable(other)}, which is no file of an archive; remove the folder or name another"
            )


def _write_archive(
    reinforced: ReinforcedBeton, images: ImageBeton, sizes: np.ndarray, form: Format, work: Work, progress: bool
) -> None:
    """sizes: (N, 2) original width and height of all images."""
    header, out = reinforced.header, work.out
    schema = Schema(form, header.views, header.topk, header.num_classes, sizes)
    written_to = _new_tar if out.name.endswith((".tar.gz", ".tgz")) else _new_folder
    with (
        os_errors_as_user_errors(out),
        written_to(work) as write,
        tqdm(total=len(images), unit="img", desc=printable(out.name), disable=not progress) as bar,
    ):
        write(name_of(CONFIG), zip_around(pickle.dumps(_config(form, header, images), 2)))
        for stored in _chunks(reinforced):
            try:
                entries = to_entries(stored, schema)
            except EntryError as error:
                raise UserError(f"{reinforced.path}: {error}") from None
            for entry in entries:
                write(name_of(entry[0]), zip_around(pickle.dumps(entry, 4)))
            bar.update(len(entries))


def _format_of(reinforced: ReinforcedBeton, sizes: np.ndarray, resolution: int) -> Format:
    """The format of the archive to be: what the first view shows, and what the policy says."""
    header = reinforced.header
    if header.effects is not None:
        raise EntryError("its views may have effects or vertical flips, for which the published format has no place")
    side = resolution or header.resolution
    if not side:
        raise EntryError("its teachers saw several resolutions; give export.resolution, at which boxes count in pixels")
    first = reinforced.views(0)[0]
    view = first_views(first)
    flags, short, padding = int(view["flags"]), 0, 0
    if flags & CENTER:
        crop = PLACED_CROP if flags & PLACED else CENTER_CROP
        short = round(side * FRACTION / max(int(view["crop_w"]), 1))
        padding = int(pixels(view["pad"], side)) if crop == PLACED_CROP else 0
    else:
        crop = PADDED_CROP if view["pad"] else RESIZED_CROP
        padding = int(pixels(view["pad"], int(sizes[0, 0])))
    try:
        policy = replace(Policy(**header.policy), ops=2)
    except TypeError:  # a setting of another name
        raise EntryError("its policy is not one that ffdr draws from") from None
    except UserError as error:
        raise EntryError(str(error)) from None
    always = ("uint8", "random_horizontal_flip", "rand_augment", "to_tensor", "random_erase", "normalize")
    cropping = next(names for names, made in CROPS.items() if made == crop)
    used = {*cropping, *always, *(MIXING if header.mixes else ())}
    return Format(tuple(name for name in TRANSFORMS if name in used), crop, side, short, padding, policy)


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


def _chunks(reinforced: ReinforcedBeton) -> Iterator[StoredEntries]:
    """All images, some at a time. Raises UserError for one whose checksum is wrong."""
    count = len(reinforced)
    step = max(1, _CHUNK_VIEWS // reinforced.header.views)
    for start in range(0, count, step):
        index = np.arange(start, min(start + step, count))
        for i in index.tolist():
            check_intact(reinforced, i)
        views = np.stack([reinforced.views(i) for i in index.tolist()])
        ids, log_probs = (np.stack(part) for part in zip(*map(reinforced.logits, index.tolist()), strict=True))
        yield StoredEntries(index, views, ids, log_probs)


@contextmanager
def _new_folder(work: Work) -> Iterator[WriteMember]:
    """Files go to a folder of another name, which is renamed when all is well."""
    partial = partial_path(work.out)

    def write(name: str, data: bytes) -> None:
        with open_new(partial / name) as file:
            file.write(data)

    own_folder(partial)
    with _published(work, open_folder(partial)):
        for file in partial.iterdir():
            file.unlink()  # of a run that was killed
        yield write
        sync_folder(partial)


@contextmanager
def _new_tar(work: Work) -> Iterator[WriteMember]:
    """Files go into a tar file of another name, which is renamed when all is well."""
    work.out.parent.mkdir(parents=True, exist_ok=True)
    with open_kept(partial_path(work.out)) as file, _published(work, os.dup(file.fileno())):
        file.truncate(0)
        with gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as stream:

            def write(name: str, data: bytes) -> None:
                member = tarfile.TarInfo(f"{_FOLDER}/{name}")
                member.size = len(data)
                stream.write(member.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE))

            yield write
            stream.write(bytes(2 * tarfile.BLOCKSIZE))
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _published(work: Work, descriptor: int) -> Iterator[None]:
    """Hold the lock of an open partial file or folder, give it its final name, and close it.

    On any failure before it is finished the partial is removed; a finished one that can't get its name is kept.
    """
    out, partial = work.out, partial_path(work.out)
    try:
        lock(descriptor, partial, out)
        try:
            yield
        except BaseException:
            remove(partial)
            raise
        work.leave(partial)
        put_in_place(partial, out)
    finally:
        os.close(descriptor)
