"""``ffdr.write(dataset, out)``: the datasets of other libraries, lists and generators; pixels, labels, names, the same
bytes however they are read."""

import io
import itertools
import os
import tarfile

import numpy as np
import pytest
import torch
from given import NAMES, Indexed, Iterated, Locked, pairs, picture
from PIL import Image
from torch.utils.data import Subset, TensorDataset
from torchvision.datasets import FakeData, ImageFolder

import ffdr
from ffdr.beton import layout
from ffdr.beton.layout import RAW, origin_key
from ffdr.beton.manifest import manifest_path
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton
from ffdr.codec.dct.pack import unpack
from ffdr.codec.jpeg.read import read_jpeg
from ffdr.util.errors import UserError
from ffdr.write import parts


def written(dataset, out, **options):
    options = {"mode": "raw", "workers": 1, "progress": False} | options
    return ImageBeton.open(ffdr.write(dataset, out / "x.beton", **options))


def files(beton):
    return beton.path.read_bytes(), manifest_path(beton.path).read_bytes()


def check(beton, images, labels, names):
    """Pixels, labels, classes and sizes, each as they should be."""
    assert len(beton) == len(images)
    assert (beton.modes == RAW).all()
    for i, pixels in enumerate(images):
        assert np.array_equal(decode_image(beton, i), pixels), i
        assert beton.is_intact(i)
    assert beton.labels.tolist() == list(labels)
    assert list(beton.class_names) == names


def encoded(i, kind="JPEG", **options):
    file = io.BytesIO()
    Image.fromarray(picture(i)).save(file, kind, **options)
    return file.getvalue()


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture
def folder(tmp_path):
    """21 files of three kinds in three classes; paths in torchvision's order."""
    for i in range(21):
        path = tmp_path / "pictures" / "train" / NAMES[i % 3] / f"{i:02d}.{('jpg', 'png', 'jpg')[i % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(i, "PNG" if path.suffix == ".png" else "JPEG"))
    return tmp_path / "pictures" / "train"


@pytest.mark.parametrize(("mode", "count"), [("raw", 7), ("jpg", 3), ("dct", 2)])
def test_the_same_images_become_the_same_bytes_however_they_are_read(tmp_path, mode, count):
    datasets = {
        "list": (pairs(), 1),
        "iterated": (Iterated(), 1),
        "generator, to workers": ((pair for pair in pairs()), 3),
        "pickled": (Indexed(), 2),
        "list, by workers": (pairs(), 3),
        "generator": ((pair for pair in pairs()), 1),
        "not to be pickled": (Locked(), 2),
    }
    found = {
        files(written(dataset, tmp_path / name, mode=mode, workers=workers, classes=NAMES))
        for name, (dataset, workers) in itertools.islice(datasets.items(), count)
    }
    assert len(found) == 1
    beton = ImageBeton.open(tmp_path / "list" / "x.beton")
    assert beton.labels.tolist() == [i % 3 for i in range(70)]
    assert [key for _, _, key in beton.origins.tolist()] == [origin_key(f"train/{i:05d}") for i in range(70)]


def test_a_stream_of_many_pages_is_laid_out_as_if_its_length_were_known(tmp_path, monkeypatch):
    """Tables of 4096 bytes and more, samples that no page is left for, pages that grow."""
    monkeypatch.setattr(layout.Allocator.__init__, "__defaults__", (1 << 14,))
    monkeypatch.setattr(parts.image_part, "__defaults__", (1 << 14, b""))
    sizes = [(13 + i % 40, 7 + i % 23, 3) for i in range(500)] + [(100, 100, 3), (5, 5, 3), (90, 99, 3)]
    items = [(np.random.default_rng(i).integers(0, 256, size, np.uint8), 0) for i, size in enumerate(sizes)]
    known, unknown = written(items, tmp_path / "1"), written(iter(items), tmp_path / "2")
    assert files(known) == files(unknown)
    check(unknown, [pixels for pixels, _ in items], [0] * 503, ["0"])


def test_images_of_every_kind(tmp_path):
    grey, rgb = picture(1)[..., 0].copy(), picture(2)
    sixteen = Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257)
    palette = Image.fromarray(rgb).quantize(16)
    (tmp_path / "a.png").write_bytes(encoded(9, "PNG"))
    given = [
        (Image.fromarray(rgb), rgb),
        (Image.fromarray(grey), np.stack([grey] * 3, 2)),
        (palette, np.asarray(palette.convert("RGB"))),
        (Image.fromarray(rgb).convert("RGBA"), rgb),
        (sixteen, np.stack([np.arange(256, dtype=np.uint8).reshape(16, 16)] * 3, 2)),
        (grey, np.stack([grey] * 3, 2)),
        (rgb[::2, ::-1], rgb[::2, ::-1]),
        (grey[..., None], np.stack([grey] * 3, 2)),
        (torch.from_numpy(rgb).permute(2, 0, 1), rgb),
        (torch.from_numpy(rgb), rgb),
        (torch.from_numpy(grey), np.stack([grey] * 3, 2)),
        (torch.from_numpy(grey)[None], np.stack([grey] * 3, 2)),
        (encoded(7), decoded(encoded(7))),
        (bytearray(encoded(8, "PNG")), picture(8)),
        (memoryview(encoded(8, "WEBP", lossless=True)), picture(8)),
        ({"bytes": encoded(3, "PNG"), "path": None}, picture(3)),
        ({"bytes": None, "path": str(tmp_path / "a.png")}, picture(9)),
        ({"bytes": None, "path": f"file://{tmp_path / 'a.png'}"}, picture(9)),
        (tmp_path / "a.png", picture(9)),
        (os.path.relpath(tmp_path / "a.png"), picture(9)),
    ]
    for workers in (1, 2):
        beton = written([(image, 0) for image, _ in given], tmp_path / str(workers), workers=workers)
        check(beton, [pixels for _, pixels in given], [0] * len(given), ["0"])


def test_labels_of_every_kind(tmp_path):
    labels = [1, np.int16(2), np.array(0), torch.tensor(1, dtype=torch.uint8), "owl", "cat", b"2", b"dog"]
    beton = written([(picture(i), label) for i, label in enumerate(labels)], tmp_path, classes=NAMES)
    check(beton, [picture(i) for i in range(8)], [1, 2, 0, 1, 2, 0, 2, 1], NAMES)


def test_class_names_from_everywhere(tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    mapping = Indexed(3)
    mapping.classes, mapping.class_to_idx = [("a", "b"), ("c",), ("a",)], {"y": 1, "x": 0, "z": 2}
    for number, (dataset, options, names) in enumerate(
        [
            (pairs(3), {}, ["0", "1", "2"]),
            (pairs(3), {"classes": tmp_path / "names.txt"}, NAMES),
            (Indexed(3), {}, NAMES),
            (Indexed(3), {"classes": ("x", "y", "z", "none")}, ["x", "y", "z", "none"]),
            (mapping, {}, ["x", "y", "z"]),
            (Subset(Subset(Indexed(9), [5, 4, 3]), [0, 1, 2]), {}, NAMES),
        ]
    ):
        assert list(written(dataset, tmp_path / str(number), **options).class_names) == names


def test_torchs_datasets(tmp_path):
    tensors = torch.from_numpy(np.stack([picture(7 * i) for i in range(5)])).permute(0, 3, 1, 2)
    beton = written(TensorDataset(tensors, torch.tensor([3, 0, 1, 3, 2])), tmp_path / "1")
    check(beton, [picture(7 * i) for i in range(5)], [3, 0, 1, 3, 2], ["0", "1", "2", "3"])
    fake = FakeData(20, (3, 20, 30), 4)
    labels = [label for _, label in fake]
    names = [str(number) for number in range(max(labels) + 1)]
    check(written(fake, tmp_path / "2"), [np.asarray(image) for image, _ in fake], labels, names)


def test_an_image_folder_is_that_of_the_command_line(folder, tmp_path):
    """Also a part of one; by default, by its files; where its images are decoded by other code, by its fingerprint."""
    theirs = ImageFolder(folder)
    ours = ffdr.write(source="imagefolder", path=folder, split="", out=tmp_path / "o.beton", mode="dct", progress=False)
    beton = written(theirs, tmp_path / "1", mode="dct")
    assert beton.path.read_bytes() == ours.read_bytes()
    assert ImageBeton.open(ours).manifest["coefficients"]["kept"] == 14
    part = written(Subset(theirs, [20, 3, 4]), tmp_path / "2")
    check(part, [np.asarray(theirs[i][0]) for i in (20, 3, 4)], [2, 0, 0], NAMES)
    assert part.origins.tolist() == beton.origins[[20, 3, 4]].tolist()
    paths = written([(path, NAMES[label]) for path, label in theirs.samples], tmp_path / "3", classes=NAMES, mode="dct")
    assert paths.fingerprint == beton.fingerprint
    assert paths.manifest["coefficients"] == beton.manifest["coefficients"]
    flipped = ImageFolder(folder, transform=lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    mirrored = written(flipped, tmp_path / "4")
    check(mirrored, [np.asarray(image)[:, ::-1] for image, _ in theirs], theirs.targets, NAMES)
    assert len(written(theirs, tmp_path / "5", per_class=2)) == 6


def test_bytes_keep_their_coefficients(tmp_path):
    items = [(encoded(i, quality=60 + i), i % 3) for i in range(12)]
    beton = written([*items, (encoded(99, "PNG"), 0)], tmp_path, mode="dct")
    assert beton.manifest["coefficients"] == {"kept": 12, "no JPEG": 1}
    for i, (data, _) in enumerate(items):
        width, height = beton.sizes[i].tolist()
        found, (expected, how) = unpack(beton.data(i), beton.coding, width, height), read_jpeg(data, (width, height))
        assert how == "baseline"
        assert all(np.array_equal(*planes) for planes in zip(found.planes, expected.planes, strict=True))


def test_hugging_faces_datasets(tmp_path):
    from datasets import ClassLabel, Dataset, Features, IterableDataset, Value
    from datasets import Image as ImageColumn

    features = Features({"label": ClassLabel(names=NAMES), "id": Value("int32"), "image": ImageColumn()})
    count, images = 20, [picture(i) for i in range(20)]
    columns = {"image": [Image.fromarray(i) for i in images], "label": [i % 3 for i in range(count)], "id": [7] * count}
    table = Dataset.from_dict(columns, features=features)
    table.save_to_disk(str(tmp_path / "saved"))

    def rows():
        return ({key: columns[key][i] for key in columns} for i in range(count))

    plain = written(list(zip(columns["image"], columns["label"], strict=True)), tmp_path / "list", classes=NAMES)
    for number, dataset in enumerate(
        [
            table,
            Dataset.load_from_disk(str(tmp_path / "saved")),
            table.with_format("torch"),
            table.with_transform(lambda batch: batch | {"image": [image.copy() for image in batch["image"]]}),
            IterableDataset.from_generator(rows, features=features),
            table.to_iterable_dataset(),
        ]
    ):
        beton = written(dataset, tmp_path / str(number), workers=1 + (number == 1))
        check(beton, images, columns["label"], NAMES)
        assert files(beton) == files(plain)
    unnamed = written(IterableDataset.from_generator(rows), tmp_path / "unnamed", columns=("image", "id"))
    check(unnamed, images, [7] * count, list("01234567"))
    renamed = table.rename_column("image", "picture").rename_column("label", "kind")
    assert files(written(renamed, tmp_path / "renamed")) == files(plain)
    jpegs = Dataset.from_dict({"image": [{"bytes": encoded(i), "path": None} for i in range(6)], "label": [0] * 6})
    jpegs = jpegs.cast_column("image", ImageColumn())
    assert written(jpegs, tmp_path / "jpegs", mode="dct").manifest["coefficients"] == {"kept": 6}


def test_hugging_faces_image_folder_is_that_of_the_command_line(folder, tmp_path):
    from datasets import load_dataset

    table = load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    streamed = load_dataset("imagefolder", data_dir=str(folder), split="train", streaming=True)
    ours = ffdr.write(source="imagefolder", path=folder, split="", out=tmp_path / "o.beton", mode="dct", progress=False)
    for number, dataset in enumerate([table, streamed]):
        beton = written(dataset, tmp_path / str(number), mode="dct")
        assert beton.fingerprint == ImageBeton.open(ours).fingerprint
        assert beton.manifest["coefficients"] == ImageBeton.open(ours).manifest["coefficients"]


def test_tar_shards_of_webdataset(tmp_path):
    import webdataset

    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for i in range(10 * shard, 10 * shard + 10):
                for name, data in ((f"{i:04d}.jpg", encoded(i)), (f"{i:04d}.cls", str(i % 3).encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    shards = str(tmp_path / "{0..1}.tar")
    images, labels = [decoded(encoded(i)) for i in range(20)], [i % 3 for i in range(20)]
    dataset = webdataset.WebDataset(shards, shardshuffle=False)
    check(written(dataset.to_tuple("jpg", "cls"), tmp_path / "1", classes=NAMES, workers=2), images, labels, NAMES)
    rows = webdataset.WebDataset(shards, shardshuffle=False)
    beton = written(rows, tmp_path / "2", classes=NAMES, columns=("jpg", "cls"), mode="dct")
    assert beton.manifest["coefficients"] == {"kept": 20}
    pil = webdataset.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("jpg", "cls")
    check(written(pil, tmp_path / "3", classes=NAMES), images, labels, NAMES)


def test_options_do_for_datasets_what_they_do_for_sources(tmp_path):
    for number, dataset in enumerate((Indexed(), Iterated(), Locked())):
        place = tmp_path / str(number)
        few = written(dataset, place / "few", per_class=4, workers=1 + (number == 0))
        check(few, [picture(i) for i in range(12)], [i % 3 for i in range(12)], NAMES)
        small = written(dataset, place / "small", max_resolution=25)
        assert small.sizes.max() == 25 and small.original_sizes.max() == 50
        assert small.fingerprint == written(dataset, place / "large").fingerprint
        sizes = [written(dataset, place / str(q), mode="jpg", quality=q).path.stat().st_size for q in (50, 95)]
        assert sizes[0] < sizes[1]
        with pytest.raises(UserError, match=r"x\.beton: exists, made with mode=raw, not jpg; --overwrite replaces it"):
            written(dataset, place / "small", max_resolution=25, mode="jpg")
        before = files(small)
        assert files(written(dataset, place / "small", mode="jpg", overwrite=True)) != before
    endless = itertools.cycle(pairs(6))
    assert len(written(endless, tmp_path / "endless", per_class=2, classes=NAMES)) == 6
    (tmp_path / "x.yaml").write_text("write: {mode: dct, source: digits, split: val}\n")
    out = ffdr.write(Indexed(5), tmp_path / "y.beton", config_file=tmp_path / "x.yaml", progress=False)
    beton = ImageBeton.open(out)
    assert beton.coding is not None
    assert (beton.manifest["source"], beton.manifest["split"]) == ("python", "val")


@pytest.mark.parametrize("workers", [1, 2])
def test_images_that_can_not_be_read(tmp_path, workers):
    """Of any kind of dataset; the same bytes, the same causes."""

    class Failing(Locked):
        def __getitem__(self, i):
            if i == 30:
                raise OSError("the disk is bad")
            return (b"\xff\xd8 not much" if i in (3, 50) else picture(i)), i % 3

    dataset = Failing()
    with pytest.raises(UserError, match=r"^item train/00003: can't be read: UnidentifiedImageError: cannot identify"):
        written(dataset, tmp_path / "stop", workers=workers)
    beton = written(dataset, tmp_path, on_error="skip", workers=workers)
    kept = [i for i in range(70) if i not in (3, 30, 50)]
    check(beton, [picture(i) for i in kept], [i % 3 for i in kept], NAMES)
    causes = {one["origin"]: one["cause"] for one in beton.manifest["skipped"]}
    assert causes == {
        "train/00003": "UnidentifiedImageError: cannot identify image file",
        "train/00030": "OSError: the disk is bad",
        "train/00050": "UnidentifiedImageError: cannot identify image file",
    }
    few = written(dataset, tmp_path / "few", on_error="skip", per_class=2, workers=workers)
    assert [one["origin"] for one in few.manifest["skipped"]] == ["train/00003"]
    assert few.labels.tolist() == [0, 1, 2, 1, 2]


def test_names_that_no_file_has_and_images_without_pixels(tmp_path):
    """Names that are not text are names of files nevertheless; what can't be one, and no pixels, are bad images."""
    odd = os.fsdecode(os.fsencode(tmp_path / "dog") + b"\xff.png")
    Image.fromarray(picture(1)).save(odd)
    items = [(odd, 1), ("a\0b.png", 0), (Image.new("RGB", (0, 4)), 0), ("\ud800.png", 2)]
    for number, dataset in enumerate((items, iter(items))):
        beton = written(dataset, tmp_path / str(number), on_error="skip", classes=NAMES)
        check(beton, [picture(1)], [1], NAMES)
        causes = [one["cause"].partition(":")[0] for one in beton.manifest["skipped"]]
        assert causes == ["ValueError", "ValueError", "UnicodeEncodeError"]


def test_workers_read_what_can_be_pickled(tmp_path):
    class Here(Indexed):
        """Its class is unknown to other processes."""

    read = []

    class Noted(Locked):
        def __getitem__(self, i):
            read.append(i)
            return super().__getitem__(i)

    written(Noted(), tmp_path / "1", workers=2)
    assert {*range(70)} == {*read}
    assert len(written(Here(), tmp_path / "2", workers=2)) == 70
