"""Evaluation views from files: as torchvision makes them, as a beton's are, each image once over all ranks."""

import errno
import os

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from ffdr.bench.corpus import make_photos
from ffdr.config.files import WriteOptions
from ffdr.data.folder import open_folder
from ffdr.data.source import ReadError
from ffdr.evaluate.evaluator import center_share
from ffdr.evaluate.folders import BatchFormat, FolderLoader
from ffdr.loader.loader import ReinforcedLoader
from ffdr.models.build import ModelInfo
from ffdr.util.errors import UserError
from ffdr.write.images import write_images


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Twelve photographs of other sizes, three of them no colour JPEGs."""
    folder = tmp_path_factory.mktemp("files")
    make_photos(folder, 12, seed=4)
    for number, (path, mode) in enumerate(zip(sorted(folder.rglob("*.jpg")), ("L", "CMYK", "RGBA"), strict=False)):
        image = Image.open(path).convert(mode)
        image.resize((300 + number, 120)).save(path.with_suffix(".png" if mode == "RGBA" else ".jpg"))
    return open_folder(folder, "eval.data")


def info(resolution):
    return ModelInfo("test_vit", 10, resolution, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


def pixels(loader):
    return np.concatenate([batch.permute(0, 2, 3, 1).numpy() for batch, _, _ in loader])


@pytest.mark.parametrize(("resolution", "crop_pct", "resized"), [(224, 0.875, 256), (96, 0.9, 106), (64, 1.0, 64)])
def test_the_view_is_torchvisions(files, resolution, crop_pct, resized):
    center = center_share(resolution, crop_pct)
    loader = FolderLoader(files, info(resolution), BatchFormat(5, dtype=torch.uint8), center=center)
    theirs = v2.Compose([v2.Resize(resized), v2.CenterCrop(resolution)])
    expected = np.stack([np.asarray(theirs(files.read(i))) for i in range(len(files))]).astype(int)
    assert np.abs(pixels(loader) - expected).max() <= 1


def test_a_view_of_its_own_size_is_the_file(tmp_path):
    """ImageNet-C's files are 224 px and must be shown as they are."""
    own = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    for number, image in enumerate(own):
        (tmp_path / "x").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "x" / f"{number}.png")
    source = open_folder(tmp_path, "eval.data")
    loader = FolderLoader(source, info(224), BatchFormat(2, dtype=torch.uint8), center=center_share(224, 1.0))
    np.testing.assert_array_equal(pixels(loader), own)


def test_a_beton_of_the_same_pixels_gives_the_same_batches(files, tmp_path):
    out = tmp_path / "raw.beton"
    write = WriteOptions(source="imagefolder", path=str(files.root), split="", out=str(out), mode="raw", workers=1)
    write_images(write, progress=False)
    model = info(48)
    beton = ReinforcedLoader(out, resolution=48, mean=model.mean, std=model.std, batch_size=5, center=0.9)
    for mine, theirs in zip(FolderLoader(files, model, BatchFormat(5), center=0.9), beton, strict=True):
        assert torch.equal(mine[0], theirs[0]) and mine[0].is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(mine[1].label, theirs[1].label) and torch.equal(mine[2], theirs[2])
        assert torch.equal(mine[1].dense(10), theirs[1].dense(10))


def test_the_border_is_cut_off_first(tmp_path):
    image = np.full((44, 54, 3), 77, np.uint8)
    image[:2], image[-2:], image[:, :2], image[:, -2:] = (255, 0, 0), (255, 0, 0), (255, 0, 0), (255, 0, 0)
    (tmp_path / "x").mkdir()
    Image.fromarray(image).save(tmp_path / "x" / "0.png")
    source = open_folder(tmp_path, "eval.data")
    shown = {border: pixels(_bordered(source, border)) for border in (0, 1, 2)}
    assert (shown[2] == 77).all()
    assert (shown[0] != 77).any() and (shown[1] != 77).any()


def _bordered(source, border):
    return FolderLoader(source, info(32), BatchFormat(1, dtype=torch.uint8), center=1.0, border=border)


def test_ranks_share_the_images(files):
    seen = []
    for rank in range(3):
        loader = FolderLoader(files, info(16), BatchFormat(2), rank=rank, world_size=3)
        batches = list(loader)
        assert len(batches) == len(loader)
        seen += [i for _, _, index in batches for i in index.tolist()]
    assert sorted(seen) == list(range(len(files)))


def test_a_rank_is_found_at_the_first_pass(files, monkeypatch):
    early, counted = (FolderLoader(files, info(16), BatchFormat(2)) for _ in range(2))
    assert len(counted) == -(-len(files) // 2)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert [i for _, _, index in early for i in index.tolist()] == [2, 3, 6, 7, 10, 11][: len(files) - 2]
    assert len(early) == 3
    with pytest.raises(RuntimeError, match=r"as rank 0 of 1, but torch.distributed now has rank 1 of 2"):
        next(iter(counted))


def test_a_file_that_can_not_be_read_is_named(files, tmp_path):
    make_photos(tmp_path, 30)
    (tmp_path / "class_03" / "000013.jpg").write_bytes(b"\xff\xd8 no more")
    loader = FolderLoader(open_folder(tmp_path, "eval.data"), info(16), BatchFormat(2))
    with pytest.raises(ReadError, match=r"class_03/000013\.jpg: UnidentifiedImageError"):
        list(loader)


def test_a_folder_without_classes_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"eval\.data: .* has no subfolders"):
        open_folder(tmp_path, "eval.data")


@pytest.mark.parametrize("size", [(3, 40), (40, 4)])
def test_an_image_that_is_nothing_but_border_is_named(tmp_path, size):
    (tmp_path / "x").mkdir()
    Image.new("RGB", size).save(tmp_path / "x" / "0.png")
    width, height = size
    with pytest.raises(ReadError, match=rf"x/0\.png: {width}×{height} pixels leave nothing within a border of 2"):
        list(_bordered(open_folder(tmp_path, "eval.data"), 2))


def test_an_image_that_is_too_long_for_a_view_is_named(tmp_path):
    (tmp_path / "x").mkdir()
    Image.new("L", (70000, 2)).save(tmp_path / "x" / "0.png")
    with pytest.raises(ReadError, match=r"x/0\.png: view cannot be replayed: .* between 1 and 65535 pixels"):
        list(_bordered(open_folder(tmp_path, "eval.data"), 0))


def test_a_folder_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    """Its images would be missing without a word."""
    (tmp_path / "x" / "more").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "x" / "0.png")
    real = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("more"):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError):
        open_folder(tmp_path, "eval.data")


def test_folders_in_folders_come_in_torchvisions_order(tmp_path):
    for name in ("b/0.png", "b/c/1.PNG", "b/c.d/2.png", "b/c/e/3.jpg", "a/z.png", "a/Z.png", "b/a/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "gone.png").symlink_to("nowhere")
    (tmp_path / "a" / "there").symlink_to(tmp_path / "b" / "c")
    source, theirs = open_folder(tmp_path, "eval.data"), ImageFolder(tmp_path)
    assert [(source.place(source.origin(i)), source.labels[i]) for i in range(len(source))] == theirs.samples
