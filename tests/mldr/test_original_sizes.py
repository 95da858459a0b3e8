"""Archives imported with images of stock FFCV, whose original sizes are those of the folder that they came from."""

import shutil

import archive_oracle as oracle
import numpy as np
import pytest
from archive_oracle import POLICIES, config_of, files_of, make_entries
from imports import sizes_of
from PIL import Image

from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.cli import main
from ffdr.config.files import ImportOptions, SubsetOptions, WriteOptions
from ffdr.mldr.importing import import_archives
from ffdr.write.copy.subset import subset
from ffdr.write.images import write_images

TRANSFORMS = POLICIES["+M*+R*"]


@pytest.fixture(scope="module")
def ours(stock, tmp_path_factory):
    """The images of stock's betons, written by ffdr."""
    out = tmp_path_factory.mktemp("ours") / "ours.beton"
    options = {"path": str(stock / "pictures"), "split": "", "max_resolution": 100, "workers": 1}
    return write_images(WriteOptions("imagefolder", out=str(out), **options), progress=False)


@pytest.fixture(scope="module")
def archives(ours, tmp_path_factory):
    """Two archives of these images."""
    folder, sizes = tmp_path_factory.mktemp("archives"), sizes_of(ImageBeton.open(ours))
    assert len(set(sizes)) == 24
    for name, views in (("a", 3), ("b", 2)):
        entries = make_entries(TRANSFORMS, sizes, views=views, seed=views)
        oracle.write_folder(folder / name, files_of(config_of(TRANSFORMS, views), entries))
    return f"{folder / 'a'},{folder / 'b'}"


@pytest.fixture
def run(archives, tmp_path, capsys):
    """Function: import the archives; the reinforced beton, or the line with which that is refused."""

    def call(images, *flags):
        out = tmp_path / "out.beton"
        status = main(["import", f"--archive={archives}", f"--images={images}", f"--out={out}", *map(str, flags)])
        said = capsys.readouterr()
        if not status:
            return ReinforcedBeton.open(out, ImageBeton.open(images))
        assert status == 2 and not out.exists()
        return said.err.splitlines()[-1]

    return call


def test_views_are_those_that_images_of_ours_get(stock, ours, run, tmp_path):
    expected = run(ours)
    shutil.move(expected.path, tmp_path / "expected.beton")
    expected = ReinforcedBeton.open(tmp_path / "expected.beton")
    flag = f"--import.sizes={stock / 'pictures'}"
    made_of_it = subset(SubsetOptions(str(stock / "jpg.beton"), str(tmp_path / "c.beton"), indices="0:24"), False)
    assert "origin" in ImageBeton.open(made_of_it).field_names
    for images in (stock / "jpg.beton", made_of_it):
        found = run(images, flag, "--overwrite")
        assert found.header.fingerprint == ImageBeton.open(images).fingerprint != expected.header.fingerprint
        for i in range(24):
            assert found.views(i).tobytes() == expected.views(i).tobytes()
            assert [part.tobytes() for part in found.logits(i)] == [part.tobytes() for part in expected.logits(i)]
    back = tmp_path / "back"
    words = ["export", f"--reinforced={found.path}", f"--images={made_of_it}", f"--out={back}"]
    assert main(words) == 2 and not back.exists()
    assert main([*words, f"--export.sizes={stock / 'pictures'}"]) == 0
    again = import_archives(ImportOptions((str(back),), str(ours), out=str(tmp_path / "again.beton")), progress=False)
    assert [ReinforcedBeton.open(again).views(i).tobytes() for i in range(24)] == [
        expected.views(i).tobytes() for i in range(24)
    ]
    changed = found.path.stat().st_mtime_ns
    assert run(made_of_it, flag).path.stat().st_mtime_ns == changed  # finished work is not done again


def test_images_that_hold_their_sizes_are_held_against_the_folder(stock, ours, run, tmp_path):
    found = run(ours, f"--import.sizes={stock / 'pictures'}")
    assert found.header.fingerprint == ImageBeton.open(ours).fingerprint
    found.path.unlink()
    other = shutil.copytree(stock / "pictures", tmp_path / "other")
    with Image.open(other / "class_00" / "000010.jpg") as picture:
        picture.resize((95, 224)).save(other / "class_00" / "000010.jpg")
    text = f"000010.jpg: has another size than image 1 of {ours} had when it was written: 95 × 224 pixels, not 95 × 223"
    assert text in run(ours, f"--import.sizes={other}")


def test_refusals(stock, run, tmp_path):
    bare, folder = stock / "jpg.beton", tmp_path / "pictures"
    assert "does not hold the images' original sizes" in run(bare)
    assert f"import.sizes: {folder} is not a folder" in run(bare, f"--import.sizes={folder}")
    shutil.copytree(stock / "pictures", folder)
    first = folder / "class_00" / "000000.jpg"
    moved = first.rename(folder / "class_01" / "000000.jpg")
    assert f"image 2 of {bare} is of class 0, but that of {folder}, class_01/000000.jpg, of class 1" in run(
        bare, f"--import.sizes={folder}"
    )
    moved.rename(folder / "class_00" / "z.jpg")  # the same images in another order
    said = run(bare, f"--import.sizes={folder}")
    assert "000010.jpg: is 95 × 223 pixels, which can't be shrunk to image 0" in said and "another order" in said
    (folder / "class_00" / "z.jpg").rename(first)
    (folder / "class_09" / "000019.jpg").write_bytes(b"no picture")
    assert "class_09/000019.jpg: UnidentifiedImageError: cannot identify" in run(bare, f"--import.sizes={folder}")
    (folder / "class_09" / "000019.jpg").unlink()
    assert f"{folder} has 23 images, but {bare} has 24" in run(bare, f"--import.sizes={folder}")


def test_only_headers_are_read(stock, run, tmp_path):
    """The rest of a file may be missing: a network need not hand it over."""
    folder = shutil.copytree(stock / "pictures", tmp_path / "pictures")
    for path in folder.rglob("*.jpg"):
        path.write_bytes(path.read_bytes()[:700])
    assert run(stock / "jpg.beton", f"--import.sizes={folder}").header.views == 5
    assert np.isfinite(run(stock / "jpg.beton", f"--import.sizes={folder}").logits(0)[1]).all()
