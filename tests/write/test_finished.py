"""A finished output: the same work is not done twice, other work is refused, and --overwrite replaces it."""

import errno
import os
import shlex
import shutil
from pathlib import Path

import pytest
from betons import MIXING, PLAIN, files_in

from ffdr.cli import main
from ffdr.config import recipe
from ffdr.config.files import ExportOptions, PackOptions, WriteOptions
from ffdr.mldr.exporting import export_archive
from ffdr.write import partial
from ffdr.write.copy.merge import pack
from ffdr.write.images import write_images
from ffdr.write.receipt import Work, receipt_path, state


@pytest.fixture(scope="module")
def sources(digits, photos, reinforced_digits, reinforce, teacher, tmp_path_factory):
    """A folder with a file of every kind that a verb reads."""
    folder = tmp_path_factory.mktemp("sources")
    for path, name in ((digits, "d"), (photos, "ph")):
        shutil.copy(path, folder / f"{name}.beton")
        shutil.copy(path.with_suffix(".json"), folder / f"{name}.json")
    shutil.copy(teacher.partition(":")[2], folder / "t.safetensors")
    for name, views in (("1", reinforced_digits), ("2", reinforce(digits, MIXING))):
        shutil.copy(views, folder / f"v{name}.beton")
        pack(PackOptions(str(digits), str(views), str(folder / f"p{name}.beton")), progress=False)
        export_archive(ExportOptions(str(views), str(digits), str(folder / f"a{name}.tar.gz")), progress=False)
    shutil.copy(reinforce(digits, PLAIN, 44), folder / "v3.beton")
    return folder


@pytest.fixture
def here(sources, tmp_path, monkeypatch):
    """A new folder with these files, the working one."""
    folder = tmp_path / "here"
    shutil.copytree(sources, folder)
    monkeypatch.chdir(folder)
    return folder


def everything(folder):
    """Bytes and time of the last change of all there is."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def contents(path):
    return {p.name: p.read_bytes() for p in path.iterdir()} if path.is_dir() else path.read_bytes()


WRITE = "write --source=digits --mode=raw --per_class=2"
REINFORCE = "reinforce --images=d.beton --views=2 --teacher.models=test_efficientnet:t.safetensors"
EXPORT = "export --reinforced=v1.beton --images=d.beton"
OUT = "--out=x.beton"
VERBS = {
    "write": (f"{WRITE} {OUT}", "--split=test", "split=train, not test"),
    "reinforce": (f"{REINFORCE} {OUT}", "--policy.scale=0.3,1", "policy.scale=0.08,1.0, not 0.3,1.0"),
    "transcode": (f"transcode ph.beton --workers=1 {OUT}", "--quality=80", "quality=90, not 80"),
    "import": (f"import --archive=a1.tar.gz --images=d.beton {OUT}", "--archive=a2.tar.gz", "--archive"),
    "export": (f"{EXPORT} --out=x", "--resolution=64", "resolution=32, not 64"),
    "export a tar file": (f"{EXPORT} --out=x.tar.gz", "--reinforced=v2.beton", "--reinforced"),
    "pack": (f"pack --images=d.beton --reinforced=v1.beton {OUT}", "--reinforced=v2.beton", "--reinforced"),
    "split": ("split --file=p1.beton --images=x.beton --reinforced=y.beton", "--file=p2.beton", "--file"),
    "subset": (f"subset --file=v1.beton --views=2 {OUT}", "--topk=2", "topk=0, not 2"),
    "concat": (f"concat --files=v1.beton,v3.beton {OUT}", "--files=v3.beton,v1.beton", "--files"),
}
"""A command line, what makes other work of it, and how the refusal tells them apart."""


def outputs_of(line):
    """Those without a manifest, which is a part of another."""
    words = dict(word.partition("=")[::2] for word in line.split() if "=" in word)
    return [words[key] for key in (("--images", "--reinforced") if line.startswith("split") else ("--out",))]


def with_change(line, change, **names):
    """A command line with one option changed or added, and outputs of other names."""
    words = {word.partition("=")[0]: word for word in shlex.split(f"{line} {change}")}
    text = shlex.join(words.values())
    for old, new in names.items():
        text = text.replace(f"={old}", f"={new}")
    return text.split()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_keeps_what_is_finished(here, verb, capsys):
    line, change, difference = VERBS[verb]
    same, other, outputs = line.split(), with_change(line, change), outputs_of(line)
    assert main(same) == 0
    told, command = capsys.readouterr().out.splitlines()[-1].split("; next: ")
    assert told.startswith(f"{outputs[0]}: ") and " images" in told and "KiB" in told
    next_verb, *words = shlex.split(command)[1:]
    recipe.parse(next_verb, words)  # nothing is missing, nothing unknown
    before = everything(here)

    assert main(same) == 0
    said = capsys.readouterr()
    assert said.out.count("\n") == 1
    assert said.out.count(": already complete (") == len(outputs)
    assert said.out.endswith(f"; nothing to do; next: {command}\n")
    assert said.err == ""
    assert everything(here) == before

    assert main(other) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith(f"ffdr {same[0]}: {outputs[0]}: exists, made ")
    assert difference in said.err and said.err.endswith("; --overwrite replaces it\n")
    assert everything(here) == before

    assert main([*other, "--overwrite"]) == 0
    assert not {path: found for path, found in everything(here).items() if "x." in path and found == before.get(path)}
    assert main(with_change(line, change, x="z", y="u")) == 0
    for name in outputs:
        assert contents(here / name) == contents(here / name.replace("x", "z", 1).replace("y", "u", 1))
    capsys.readouterr()
    assert main(other) == 0
    assert "already complete" in capsys.readouterr().out
    assert main(same) == 2
    assert not [name for name in files_in(here) if "partial" in name]


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_not_known_is_not_replaced(here, verb, capsys):
    """A file that was changed since it was made, and one without a receipt, as an older ffdr has left it."""
    line, *_ = VERBS[verb]
    assert main(line.split()) == 0
    name = outputs_of(line)[0]
    changed = here / name / "0.pth.tar" if verb == "export" else here / name
    changed.write_bytes(changed.read_bytes())
    refusal = f"{name}: exists, not known to be made by this command; --overwrite replaces it\n"
    for _ in range(2):
        before = everything(here)
        capsys.readouterr()
        assert main(line.split()) == 2
        assert capsys.readouterr().err == f"ffdr {line.split()[0]}: {refusal}"
        assert everything(here) == before
        receipt_path(here / name).unlink(missing_ok=True)
    assert main([*line.split(), "--overwrite"]) == 0
    assert main(line.split()) == 0


def test_images_that_are_not_learned_from_are_for_measuring(here, capsys):
    assert main(f"{WRITE} --split=val --out=val.beton".split()) == 0
    command = capsys.readouterr().out.strip().rpartition("; next: ")[2]
    assert command == "ffdr eval --checkpoint=CHECKPOINT --data=val.beton"
    assert recipe.parse("eval", command.split()[2:]).eval.data == "val.beton"


def test_the_same_work_is_done_again_with_overwrite(here):
    line = f"{WRITE} {OUT}".split()
    assert main(line) == 0
    before = everything(here)
    assert main([*line, "--overwrite=1"]) == 0
    after = everything(here)
    path = str(here / "x.beton")
    assert before[path][0] == after[path][0]
    assert before[path][1] < after[path][1]


def test_a_call_from_python_is_silent_and_refused_alike(tmp_path, capsys):
    options = WriteOptions(source="digits", per_class=2, mode="raw", out=str(tmp_path / "x.beton"))
    write_images(options, progress=False)
    before = everything(tmp_path)
    assert write_images(options, progress=False) == tmp_path / "x.beton"
    assert everything(tmp_path) == before
    assert capsys.readouterr() == ("", "")


def test_a_file_may_move_with_its_receipt(here, tmp_path, capsys):
    """As a folder that is copied with its times, or mounted elsewhere."""
    assert main(f"{WRITE} {OUT}".split()) == 0
    shutil.copytree(here, tmp_path / "there", copy_function=shutil.copy2)
    os.chdir(tmp_path / "there")
    assert main(f"{WRITE} {OUT}".split()) == 0
    assert "already complete" in capsys.readouterr().out


DAMAGED = ("", "[]", "{}", "null", '{"format": "ffdr work 1"}', '{"format": "ffdr work 1", "files": 1}')


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_receipt_is_none(here, damage, capsys):
    assert main(f"{WRITE} {OUT}".split()) == 0
    receipt_path(here / "x.beton").write_text(damage)
    assert main(f"{WRITE} {OUT}".split()) == 2
    assert "not known to be made by this command" in capsys.readouterr().err


def test_a_manifest_belongs_to_the_output(here, capsys):
    line = f"{WRITE} {OUT}".split()
    assert main(line) == 0
    (here / "x.json").unlink()
    assert main(line) == 2
    assert "x.beton: exists, but x.json beside it is not as it was left; --overwrite" in capsys.readouterr().err
    assert main([*line, "--overwrite"]) == 0
    assert (here / "x.json").exists()


def test_images_that_changed_are_other_work(photos, tmp_path, capsys):
    """Under the same names, and even with the same bytes: only the time tells."""
    folder = tmp_path / "photos"
    shutil.copytree(photos.parent / "photos", folder)
    line = f"write --source=imagefolder --path={folder} --split= --workers=1 --out={tmp_path / 'x.beton'}".split()
    assert main(line) == 0
    assert main(line) == 0
    capsys.readouterr()
    first = min(folder.glob("*/*"))
    first.write_bytes(first.read_bytes())
    assert main(line) == 2
    assert "exists, made from other contents of --path; --overwrite replaces it" in capsys.readouterr().err


def test_a_resumed_run_does_not_claim_what_changed_meanwhile(photos, tmp_path, capsys):
    """It goes on from the images that it had, so the file is not one of the present images."""
    folder = tmp_path / "photos"
    shutil.copytree(photos.parent / "photos", folder)
    first, *_, last = sorted(folder.glob("*/*"))
    whole = last.read_bytes()
    last.write_bytes(b"no image")
    line = f"write --source=imagefolder --path={folder} --split= --workers=1 --out={tmp_path / 'x.beton'}".split()
    assert main(line) == 2
    first.write_bytes(whole)
    last.write_bytes(whole)
    assert main(line) == 0
    capsys.readouterr()
    assert main(line) == 2
    assert "exists, made from other contents of --path; --overwrite replaces it" in capsys.readouterr().err


def test_what_is_to_be_replaced_stays_whole_on_a_full_disk(here, monkeypatch, capsys):
    line = f"{WRITE} {OUT}".split()
    assert main(line) == 0
    before = everything(here)

    def full(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Work, "leave", full)
        assert main([*line, "--split=test", "--overwrite"]) == 1
    assert before.items() <= everything(here).items()
    assert main(["verify", "x.beton"]) == 0
    assert main(line) == 0
    assert "already complete" in capsys.readouterr().out


def test_images_that_were_skipped_are_told_again(photos, tmp_path, capsys):
    folder = tmp_path / "photos"
    shutil.copytree(photos.parent / "photos", folder)
    min(folder.glob("*/*")).write_bytes(b"no image")
    line = f"write --source=imagefolder --path={folder} --split= --workers=1 --out={tmp_path / 'x.beton'}".split()
    for _ in range(2):
        assert main([*line, "--on_error=skip"]) == 0
        assert "1 images skipped; the manifest lists them" in capsys.readouterr().err
    assert main(line) == 2
    assert "can't be read" in capsys.readouterr().err


class Killed(BaseException):
    pass


def stopped(monkeypatch, line, owner, name, path):
    """Run a command line that ends just before it calls ``owner.name`` with a path."""
    real = getattr(owner, name)

    def call(first, *others, **more):
        if Path(first) == path:
            raise Killed
        return real(first, *others, **more)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(owner, name, call)
        main(line)


def test_killed_between_receipt_and_rename(here, monkeypatch, capsys):
    """The receipt speaks of a file that has no final name yet, and says nothing of the one that has it."""
    line = f"{WRITE} {OUT}".split()
    assert main(line) == 0
    old = (here / "x.beton").read_bytes()
    other = [*line, "--split=test"]
    stopped(monkeypatch, [*other, "--overwrite"], partial.os, "replace", Path("x.beton.partial"))
    assert (here / "x.beton").read_bytes() == old
    for again in (line, other):
        capsys.readouterr()
        assert main(again) == 2
        assert "not known to be made by this command" in capsys.readouterr().err
    assert main([*other, "--overwrite"]) == 0
    assert main(other) == 0
    assert main(with_change(f"{WRITE} {OUT}", "--split=test", x="z")) == 0
    assert (here / "x.beton").read_bytes() == (here / "z.beton").read_bytes() != old


def test_killed_just_after_the_rename(here, monkeypatch, capsys):
    """All is there but for the journal, which goes."""
    line = f"{WRITE} {OUT}".split()
    stopped(monkeypatch, line, Path, "unlink", Path("x.beton.partial.journal"))
    assert (here / "x.beton").exists() and (here / "x.beton.partial.journal").exists()
    assert main(line) == 0
    assert "already complete" in capsys.readouterr().out
    assert not list(here.glob("*partial*"))


def test_what_appears_meanwhile_is_not_replaced(here, monkeypatch, capsys):
    line = f"{WRITE} {OUT}".split()
    original = partial.Partial.publish

    def publish(self, *beside):
        (here / "x.beton").write_bytes(b"precious")
        original(self, *beside)

    with monkeypatch.context() as patched:
        patched.setattr(partial.Partial, "publish", publish)
        assert main(line) == 2
    assert "x.beton: has appeared while it was being made; move it away and start again" in capsys.readouterr().err
    assert (here / "x.beton").read_bytes() == b"precious"
    (here / "x.beton").rename(here / "mine")
    assert main(line) == 0


def test_a_split_that_is_refused_writes_neither(here, capsys):
    both = ["--images=x.beton", "--reinforced=y.beton"]
    assert main(["split", "p1.beton", "--reinforced=y.beton"]) == 0
    before = everything(here)
    assert main(["split", "p2.beton", *both]) == 2
    assert "y.beton: exists, made from other contents of --file" in capsys.readouterr().err
    assert everything(here) == before
    assert main(["split", "p1.beton", *both]) == 0  # the missing one is made
    told = capsys.readouterr().out
    assert told.startswith("x.beton: 100 images of 10 classes, ") and "y.beton: already complete (" in told


def test_only_an_archive_is_replaced_by_one(here, capsys):
    """A folder that holds anything else is never removed, whatever was asked for."""
    line = f"{EXPORT} --out=x --overwrite".split()
    (here / "x").mkdir()
    (here / "x" / "thesis.txt").write_text("precious")
    assert main(line) == 2
    assert capsys.readouterr().err == (
        "ffdr export: x: holds thesis.txt, which is no file of an archive; remove the folder or name another\n"
    )
    assert (here / "x" / "thesis.txt").read_text() == "precious"
    (here / "x" / "thesis.txt").rename(here / "x" / "5.pth.tar")
    assert main(line) == 0
    shutil.rmtree("x")
    (here / "x").write_text("a file")
    assert main(line) == 0
    assert (here / "x" / "5.pth.tar").exists()
    (here / "x").rename("x.tar.gz")
    assert main([*line[:3], "--out=x.tar.gz", "--overwrite"]) == 0
    assert (here / "x.tar.gz").is_file()
    assert not list(here.glob("*replaced*"))


def test_an_export_killed_between_its_renames(here, monkeypatch):
    """The old archive is whole until the new one has its name, and gone afterwards."""
    line = f"{EXPORT} --out=x".split()
    assert main(line) == 0
    old = contents(here / "x")
    other = [*line, "--resolution=64", "--overwrite"]
    stopped(monkeypatch, other, os, "replace", Path("x.partial"))
    assert not (here / "x").exists()
    assert contents(here / "x.partial.replaced") == old
    assert main(other[:-1]) == 0
    assert contents(here / "x") != old
    assert not list(here.glob("x.partial*"))


def test_a_state_changes_with_any_file(tmp_path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    seen = {state(tmp_path)}
    (tmp_path / "a").rename(tmp_path / "c")
    seen.add(state(tmp_path))
    os.utime(tmp_path / "b", ns=(0, 5))
    seen.add(state(tmp_path))
    (tmp_path / "d").write_text("")
    seen.add(state(tmp_path))
    assert len(seen) == 4
    assert state(tmp_path / "b") == "1 5"
    assert state(tmp_path / "none") == "missing"
