"""Links, FIFOs and second names where a run wants files of its own: nothing is written through them.

Every writer runs undisturbed first and is watched; so all names that it uses are known, those of writers to come, too.
Then it finds something at each of them.
"""

import ast
import os
import re
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from betons import MIXING, PLAIN
from plants import Victims, contents, plant, watched
from test_writers import WRITERS

import ffdr
from ffdr.ablate import cell
from ffdr.cli import main
from ffdr.config.files import ExportOptions, PackOptions, WriteOptions
from ffdr.demo import run as demo
from ffdr.mldr.exporting import export_archive
from ffdr.train.checkpoint import _KEYS, Checkpoints
from ffdr.train.run_folder import sole_run
from ffdr.train.tracking.callbacks import Run
from ffdr.train.tracking.tensorboard import TensorBoard
from ffdr.util.errors import UserError
from ffdr.write.copy.merge import pack
from ffdr.write.images import write_images

PACKAGE = Path(ffdr.__file__).parent
KINDS = ("link", "dangling link", "hard link", "fifo")
TEACHER = "--teacher.models=test_efficientnet:t.safetensors"
VERBS = {
    "write": "write --source=digits --mode=raw --per_class=2 --out=x.beton --overwrite",
    "reinforce": f"reinforce --images=d.beton --views=2 {TEACHER} --out=x.beton --overwrite",
    "transcode": "transcode j.beton --workers=1 --out=x.beton --overwrite",
    "import": "import --archive=a1.tar.gz --images=d.beton --out=x.beton --overwrite",
    "import several": "import --archive=a1.tar.gz,a2.tar.gz --images=d.beton --out=x.beton --overwrite",
    "export": "export --reinforced=v1.beton --images=d.beton --out=x --overwrite",
    "export a tar file": "export --reinforced=v1.beton --images=d.beton --out=x.tar.gz --overwrite",
    "pack": "pack --images=d.beton --reinforced=v1.beton --out=x.beton --overwrite",
    "split": "split --file=p1.beton --images=x.beton --reinforced=y.beton --overwrite",
    "subset": "subset --file=v1.beton --views=2 --out=x.beton --overwrite",
    "concat": "concat --files=v1.beton,v3.beton --out=x.beton --overwrite",
    "inspect": "inspect d.beton --grid=x.png",
    "eval": (
        "eval --checkpoint=t.safetensors --data=d.beton --json=x.json --csv=x.csv --plot=x.png --results=r --workers=1"
    ),
    "train": (
        "train --data.train=d.beton --train.out=run --model.name=test_efficientnet --train.batch_size=10 "
        "--train.resolution=32 --train.epochs=1 --data.workers=1 --train.tensorboard --data.val=d.beton"
    ),
}
SLOW = ("reinforce", "train")
"""Verbs with a model and many names: one kind of plant is enough, as their files are opened as all others."""
ELSEWHERE = {
    "bench": "its files lie in a temporary folder, which nobody else may enter",
    "models": "so does its link",
    "jit": "its locks lie beside compiled code, which whoever writes there could replace; they stay empty",
}
"""Who may open files to write to beside ``util/opening.py``."""


@pytest.fixture(scope="module")
def sources(reinforce, teacher, tmp_path_factory):
    """A folder with a file of every kind that a verb reads: twenty digits."""
    folder = tmp_path_factory.mktemp("sources")
    images = folder / "d.beton"
    for path, mode in ((images, "raw"), (folder / "j.beton", "jpg")):
        write_images(WriteOptions("digits", out=str(path), mode=mode, per_class=2, workers=1), progress=False)
    shutil.copy(teacher.partition(":")[2], folder / "t.safetensors")
    for name, policy in (("1", PLAIN), ("2", MIXING)):
        shutil.copy(reinforce(images, policy), folder / f"v{name}.beton")
    pack(PackOptions(str(images), str(folder / "v1.beton"), str(folder / "p1.beton")), progress=False)
    for name, policy in (("1", 3), ("2", 4)):
        views = reinforce(images, PLAIN, policy)
        export_archive(ExportOptions(str(views), str(images), str(folder / f"a{name}.tar.gz")), progress=False)
    shutil.copy(views, folder / "v3.beton")
    return folder


def cell_of_a_study(path):
    """``ablate``'s work on a cell, but for the training."""
    out = path.with_name("work") / "cells" / "digest"
    job = cell.Job(SimpleNamespace(train=SimpleNamespace(out=str(out))), "", False, "validation")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cell, "_train", lambda recipe: {})
        patched.setattr(cell, "_scores", lambda job, record: {"top1": 0.5})
        cell.run_job(job)


def tensorboard(path):
    with sole_run(path.with_name("run")):
        tracker = TensorBoard(path.with_name("run"))
        tracker.on_start(Run(path.with_name("run"), {}, epochs=1, resumed=False))
        tracker.on_epoch_end({"epoch": 1, "loss": 0.5})
        tracker.close()


def checkpoints(path):
    Checkpoints(path.with_name("checkpoints")).clear()
    for step in (2, 3, 4):
        Checkpoints(path.with_name("checkpoints")).save(step, {key: {} for key in _KEYS})


CALLS = {name: write for name, write in WRITERS.items() if name != "checkpoint"} | {
    "checkpoints": checkpoints,
    "a cell of a study": cell_of_a_study,
    "tensorboard": tensorboard,
}
GIVEN = {"train": {"run"}, "eval": {"r"}, "tensorboard": {"run"}, "a cell of a study": {"work"}}
"""Folders that the user names: they may be links."""


class Place:
    """A folder in which a writer runs, again and again, each time as if it were the first."""

    def __init__(self, writer, sources, folder, monkeypatch, capsys):
        self.writer, self.sources, self.capsys = writer, sources, capsys
        self.folder = folder / "here"
        self.folder.mkdir()
        monkeypatch.chdir(self.folder)

    def clear(self):
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        if self.writer in VERBS:
            shutil.copytree(self.sources, self.folder, dirs_exist_ok=True)

    def run(self):
        """The line with which it was refused; empty: it was not."""
        self.capsys.readouterr()
        if self.writer in CALLS:
            try:
                CALLS[self.writer](self.folder / "x.png")
            except UserError as error:
                return str(error)
            return ""
        status = main(VERBS[self.writer].split())
        said = self.capsys.readouterr().err
        assert status in (0, 2), said
        assert "Traceback" not in said
        return said.splitlines()[-1] if status else ""

    def undisturbed(self, umask):
        """The names that are used, and what lies under them afterwards."""
        self.clear()
        before = os.umask(umask)
        try:
            with watched(self.folder) as watch:
                assert self.run() == ""
        finally:
            os.umask(before)
        watch.folders -= GIVEN.get(self.writer, set())
        for name in watch.files | watch.folders:
            path, mode = self.folder / name, 0o666 if name in watch.files else 0o777
            if os.path.lexists(path):
                assert path.stat().st_mode & 0o777 == mode & ~umask, name
        return watch, contents(self.folder, watch.files)


@contextmanager
def at_most(seconds):
    """A FIFO keeps whoever opens it waiting for the other end."""

    def hang(*_):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("writer", [*VERBS, *CALLS])
def test_nothing_is_written_through_what_lies_there(writer, sources, tmp_path, monkeypatch, capsys):
    place = Place(writer, sources, tmp_path, monkeypatch, capsys)
    watch, wanted = place.undisturbed(0o077)
    again, other = place.undisturbed(0o002)
    always = (watch.files | watch.folders) & (again.files | again.folders)  # TensorBoard's names have the time in them
    assert always
    for kind in KINDS[:1] if writer in SLOW else KINDS:
        names = {name for name in always if name in watch.files or kind != "hard link"}
        _attack(place, kind, names, watch, wanted, other, Victims(tmp_path / kind))


def _attack(place, kind, names, watch, wanted, other, victims):
    """Run with something at all these names, less and less: at those for which it was refused nothing lies then."""
    while True:
        place.clear()
        for name in sorted(names):
            plant(kind, place.folder, name, name in watch.folders, victims)
        before = victims.state()
        with watched(place.folder) as now, at_most(seconds=60):
            refusal = place.run()
        assert victims.state() == before
        assert not [path for path in now.locked if path.startswith(str(victims.folder))]
        if not refusal:
            break
        assert "\n" not in refusal
        named = {name for name in names if re.search(rf"{re.escape(Path(name).name)}(?=[:;, ]|$)", refusal)}
        assert named, refusal
        names -= named
    found = contents(place.folder, wanted)
    assert found.keys() == wanted.keys() & other.keys()
    for name, data in found.items():
        assert data is not None, name
        assert data == wanted[name] or wanted[name] != other[name], name  # as the times in a receipt


def test_one_module_opens_files_to_write_to():
    """What it does not open is not safe from links, and is not watched here."""
    others = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _opens_to_write(node):
                others.add(path.relative_to(PACKAGE).parts)
    assert {parts[0] for parts in others - {("util", "opening.py")}} == set(ELSEWHERE)


def _opens_to_write(call):
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    words = [word.value for word in [*call.args[:2], *(key.value for key in call.keywords)] if hasattr(word, "value")]
    modes = [word for word in words if isinstance(word, str) and re.fullmatch("[rwaxbt+]{1,3}", word)]
    return name in (
        "write_text",
        "write_bytes",
        "touch",
        "symlink_to",
        "hardlink_to",
        "mkstemp",
        "NamedTemporaryFile",
    ) or (name in ("open", "fdopen") and any(set(mode) & set("wax+") for mode in modes))


def test_the_runs_of_the_demo_are_not_elsewhere(tmp_path):
    """What an earlier run has left in their folders is removed."""
    victims = Victims(tmp_path / "victims")
    (tmp_path / "erm-0").symlink_to(victims.full_folder())
    before = victims.state()
    with pytest.raises(UserError, match="erm-0: a symbolic link where ffdr keeps a folder of its own"):
        demo._recipe("erm", tmp_path / "small.beton", tmp_path / "erm-0")
    assert victims.state() == before
