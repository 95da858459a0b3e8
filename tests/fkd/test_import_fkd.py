"""FKD's files replay and teach as FKD's own trainer has them, in all their forms; killed runs go on."""

import tarfile
import tracemalloc

import fkd_oracle as oracle
import numpy as np
import pytest
import torch
from crashes import Ordeal, fresh_process
from fkd_oracle import CLASSES, FORMS
from PIL import Image

from ffdr import cli
from ffdr.archive import importing
from ffdr.augment.geometry import from_fraction
from ffdr.augment.view import FLIP
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.config.files import ImportOptions, WriteOptions
from ffdr.fkd.importing import import_archives
from ffdr.loader.dataset import ReinforcedDataset
from ffdr.loader.targets import SparseTargets
from ffdr.write import reinforced
from ffdr.write.images import write_images


def targets_of(beton, i):
    ids, log_probs = beton.logits(i)
    return SparseTargets(
        torch.from_numpy(ids.astype(np.int64)),
        torch.from_numpy(log_probs.copy()),
        torch.zeros(len(ids), dtype=torch.long),
    )


def check(beton, made, paths, form, rules):
    """Records have the boxes in whole pixels, and targets the trainer's probabilities."""
    for i, path in enumerate(paths):
        boxes, (_, flips, labels) = made[path]
        views = beton.views(i)
        width, height = oracle_size(path, paths)
        for k, box in enumerate(boxes.tolist()):
            names = (("crop_y", height), ("crop_x", width), ("crop_h", height), ("crop_w", width))
            assert [from_fraction(views[k][name], side) for name, side in names] == box
        assert np.array_equal(views["flags"] == FLIP, flips)
        for rule in rules:
            dense = targets_of(beton, i).dense(CLASSES, rule).numpy()
            assert np.abs(dense - oracle.recovered(labels, form, CLASSES, rule)).max() < 6e-4


def oracle_size(path, paths):
    return oracle.SIZES[int(path.rpartition("_")[2].partition(".")[0]) % len(oracle.SIZES)]


RULES = {
    "full": ["smooth"],
    "hard": ["smooth", "renormalise", "top1", "hard"],
    "smoothing": ["smooth", "top1"],
    "marginal_k5": ["smooth", "renormalise"],
    "marginal_k10": ["smooth", "renormalise"],
}


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_what_the_trainer_makes_of_it(load, pictures, paths, tmp_path, form, half):
    made = oracle.make(pictures, form, half=half)
    beton = load(oracle.write_folder(tmp_path / "a", oracle.files_of(made)), topk=CLASSES if form == "full" else 0)
    header = beton.header
    named = {"full": CLASSES, "hard": 1, "smoothing": 1, "marginal_k5": 5, "marginal_k10": 10}[form]
    assert (header.views, header.topk, header.mixes, header.teachers) == (3, named, False, ("FKD",))
    check(beton, made, paths, form, RULES[form])


@pytest.mark.parametrize("form", ["full", "hard", "marginal_k5"])
def test_tensors_and_other_pickles_say_the_same(load, pictures, tmp_path, form):
    """Tensors, of which one has steps; protocol 4."""
    made = oracle.make(pictures, form)
    plain = load(oracle.write_folder(tmp_path / "a", oracle.files_of(made)), out="plain.beton")
    for number, (change, protocol) in enumerate(((oracle.as_tensors, 2), (list, 4), (tuple, 3), (strided, 2))):
        files = {
            f"train/{path.partition('.')[0]}.tar": oracle.saved(change(content), pickle_protocol=protocol)
            for path, (_, content) in made.items()
        }
        other = load(oracle.write_folder(tmp_path / f"b{number}", files), out=f"{number}.beton")
        assert other.path.read_bytes() == plain.path.read_bytes()


def strided(content):
    """Tensors that are parts of larger ones, in another order of their axes; an array in Fortran's order."""
    coords, flips, labels = oracle.as_tensors(content)
    wide = torch.zeros(4, len(coords), 2)
    wide[:, :, 1] = coords.T
    return [wide.permute(1, 0, 2)[:, :, 1], flips, np.asfortranarray(labels.numpy())]


def test_views_are_the_trainers_pixels(load, images, pictures, paths, tmp_path):
    """Within a level of torchvision's crop of the same picture; mirrored as it."""
    for half in (False, True):
        made = oracle.make(pictures, "marginal_k5", crops=5, half=half, seed=2)
        beton = load(oracle.write_folder(tmp_path / f"{half}", oracle.files_of(made)), out=f"{half}.beton")
        dataset, flipped = ReinforcedDataset(images, beton), 0
        for i, path in enumerate(paths):
            picture = Image.fromarray(decode_image(images, i))
            _, (coords, flips, _) = made[path]
            for k in range(5):
                expected = oracle.replayed(picture, coords[k], flips[k], 48)
                found = dataset.view(i, k, 48)[0]
                assert np.abs(found.astype(int) - expected).max() <= 1
                flipped += flips[k]
        assert 30 < flipped < 90


def test_the_best_entries_are_kept(load, pictures, paths, tmp_path):
    """Of labels over all classes ten; as told, of any."""
    full = oracle.make(pictures, "full")
    archive = oracle.write_folder(tmp_path / "a", oracle.files_of(full))
    assert load(archive).header.topk == 10
    three = load(archive, out="three.beton", topk=3)
    for i, path in enumerate(paths):
        for k, label in enumerate(full[path][1][2]):
            ids, log_probs = (part[k] for part in three.logits(i))
            assert ids.tolist() == np.argsort(-label)[:3].tolist()
            assert np.abs(np.exp(log_probs.astype(float)) - np.sort(label)[::-1][:3]).max() < 6e-4
    marginal = oracle.write_folder(tmp_path / "b", oracle.files_of(oracle.make(pictures, "marginal_k10")))
    all_, two = load(marginal, out="all.beton"), load(marginal, out="two.beton", topk=2)
    assert np.array_equal(two.logits(7)[0], all_.logits(7)[0][:, :2])


LONG = "FKD_soft_label_500_crops_marginal_smoothing_k_5/of_a_teacher_with_a_long_name/"


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("below", ["./", LONG, 3 * "w" * 40 + "/"])
def test_tar_files_in_any_order_and_of_any_kind(load, pictures, tmp_path, form, below):
    files = oracle.files_of(oracle.make(pictures, "marginal_k5"))
    names = list(files)
    np.random.default_rng(0).shuffle(names)
    plain = load(oracle.write_folder(tmp_path / "a", files), out="plain.beton")
    tar = oracle.write_tar(tmp_path / "a.tar.gz", files, names, below, form)
    assert load(tar).path.read_bytes() == plain.path.read_bytes()


def test_images_are_found_by_name(load, images, pictures, paths, tmp_path):
    """Of a beton in another order; by the names in a folder, too, of one that has forgotten them."""
    made = oracle.make(pictures, "marginal_k5")
    archive = oracle.write_folder(tmp_path / "a", oracle.files_of(made))
    by_key = load(archive)
    by_folder = load(archive, out="folder.beton", sizes=str(pictures))
    assert by_folder.path.read_bytes() == by_key.path.read_bytes()
    assert len({made[path][1][2].tobytes() for path in paths}) == len(paths)  # no two could be taken for each other


def test_betons_of_stock_ffcv_take_names_from_the_folder(load, stock, tmp_path):
    pictures, beton = stock / "pictures", ImageBeton.open(stock / "jpg.beton")
    classes = len(list(pictures.iterdir()))
    made = oracle.make(pictures, "hard", classes=classes)
    archive = oracle.write_folder(tmp_path / "a", oracle.files_of(made))
    found = load(archive, images=beton, sizes=str(pictures))
    for i, path in enumerate(sorted(made)):
        assert found.logits(i)[0][:, 0].tolist() == made[path][1][2].tolist()


def test_several_archives_are_put_together(load, pictures, tmp_path):
    """Of several teachers, with different numbers of entries."""
    archives = [
        oracle.write_folder(tmp_path / form, oracle.files_of(oracle.make(pictures, form, crops=2, seed=n)))
        for n, form in enumerate(("marginal_k5", "smoothing"))
    ]
    alone = [load(archive, out=f"{archive.name}.beton") for archive in archives]
    both = load(*archives)
    assert (both.header.views, both.header.topk, both.header.teachers) == (4, 5, ("FKD",))
    assert np.array_equal(both.views(9), np.concatenate([one.views(9) for one in alone]))
    assert np.array_equal(both.logits(9)[0][2:, :1], alone[1].logits(9)[0])


def test_the_verb(images, pictures, tmp_path, capsys):
    archive = oracle.write_folder(tmp_path / "a", oracle.files_of(oracle.make(pictures, "marginal_k5")))
    words = ["import", f"--archive={archive}", f"--images={images.path}", f"--out={tmp_path / 'x.beton'}"]
    assert cli.main([*words, "--import.format=fkd"]) == 0
    assert cli.main([*words, "--format=fkd"]) == 0
    assert "x.beton" in capsys.readouterr().out
    assert cli.main([*words, "--format=fkd", "--topk=2"]) == 2
    assert "topk" in capsys.readouterr().err
    assert cli.main([*words, "--format=fdk", "--overwrite"]) == 2
    assert "import.format: 'fdk'" in capsys.readouterr().err
    changed = next((archive / "imagenet" / "train").glob("*/*.tar"))
    changed.write_bytes(changed.read_bytes() + b"\0")
    assert cli.main([*words, "--format=fkd"]) == 2
    assert "other contents of --archive" in capsys.readouterr().err


def import_through_kills(images, archives, folder):
    images = ImageBeton.open(images)
    importing.BATCH_VIEWS, reinforced.COMMIT_BYTES = 6, 1 << 8

    def work(out):
        options = ImportOptions(archive=tuple(map(str, archives)), images=str(images.path), out=str(out), format="fkd")
        return ReinforcedBeton.open(import_archives(options, progress=False), images)

    ordeal = Ordeal(work, folder, seed=1)
    return ordeal.run(4), ordeal.whole


def test_killed_at_random_moments(load, images, pictures, tmp_path):
    files = oracle.files_of(oracle.make(pictures, "marginal_k5"))
    archives = [oracle.write_tar(tmp_path / f"{n}.tar.gz", files) for n in "ab"]
    with fresh_process() as process:
        killed, whole = process.submit(import_through_kills, images.path, archives, tmp_path / "work").result()
    assert sum(killed.values()) > 3
    once = load(*archives).path.read_bytes()
    assert whole["x.beton"] == once


def test_a_resumed_import_reads_only_what_is_missing(load, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "BATCH_VIEWS", 1)
    files = oracle.files_of(oracle.make(pictures, "marginal_k5"))
    names = sorted(files)
    folder = oracle.write_folder(tmp_path / "a", files | {names[-1]: b"broken"})
    with pytest.raises(Exception, match=r"n00000011_23.tar: not a zip"):
        load(folder)
    assert not (tmp_path / "out.beton").exists()
    (folder / names[-1]).write_bytes(files[names[-1]])
    (folder / names[3]).write_bytes(b"never read again")
    again = load(folder)
    (folder / names[3]).write_bytes(files[names[3]])
    assert again.path.read_bytes() == load(folder, out="anew.beton").path.read_bytes()


def test_memory_does_not_grow_with_the_archive(load, tmp_path, monkeypatch):
    """Labels of all classes: 240 files that have six megabytes together, a few at a time."""
    monkeypatch.setattr(importing, "BATCH_BYTES", 1 << 17)
    pictures = oracle.make_pictures(tmp_path / "pictures", per_class=20)
    options = WriteOptions(
        source="imagefolder", path=str(pictures), split="", out=str(tmp_path / "many.beton"), workers=1
    )
    write_images(options, progress=False)
    images = ImageBeton.open(tmp_path / "many.beton")
    made = {
        path: (boxes, [np.tile(part, (100, 1)[: part.ndim]) for part in content])
        for path, (boxes, content) in oracle.make(pictures, "full", crops=4).items()
    }
    archive = oracle.write_tar(tmp_path / "a.tar", oracle.files_of(made))
    assert archive.stat().st_size > 6 << 20
    load(archive, images=images, out="compiled.beton")
    tracemalloc.start()
    try:
        load(archive, images=images)
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()
