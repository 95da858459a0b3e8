"""What is written must not replace what the same run reads."""

import shutil

import pytest

from ffdr.cli import main
from ffdr.config.files import ExportOptions, PackOptions
from ffdr.mldr.exporting import export_archive
from ffdr.util.errors import UserError
from ffdr.write.copy.merge import pack
from ffdr.write.parts import check_out


@pytest.fixture
def here(digits, reinforced_digits, teacher, tmp_path, monkeypatch):
    """A folder, the working one, with a file of every kind that a run reads."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(digits, "d.beton")
    shutil.copy(digits.with_suffix(".json"), "d.json")
    shutil.copy(reinforced_digits, "dm.beton")
    shutil.copy(teacher.partition(":")[2], "t.safetensors")
    pack(PackOptions("d.beton", "dm.beton", "p.beton"), progress=False)
    for out in ("ar.tar.gz", "ar"):
        export_archive(ExportOptions("dm.beton", "d.beton", out), progress=False)
    (tmp_path / "link.beton").symlink_to("d.json")
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "a" / "1.png").write_bytes(b"an image")
    return tmp_path


def contents(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


TEACHER = "reinforce --images=d.beton --teacher.models=test_efficientnet:t.safetensors --views=2"


@pytest.mark.parametrize(
    "line",
    [
        "pack --images=d.beton --reinforced=dm.beton --out=d.json",
        "pack --images=d.beton --reinforced=dm.beton --out=link.beton",
        "pack --images=d.beton --reinforced=dm.beton --out=d",
        "pack --images=d.beton --reinforced=dm.beton --out=new.json",
        "split p.beton --images=p.json",
        "split p.beton --reinforced=p.json",
        "split p.beton --images=new.beton --reinforced=new.json",
        "subset d.beton --indices=0:5 --out=d.json",
        "subset dm.beton --images=d.beton --indices=0:5 --out=d.json",
        f"{TEACHER} --out=d.json",
        f"{TEACHER} --out=t.safetensors",
        f"{TEACHER} --out=./a/../t.safetensors --dry_run",
        "import --archive=ar.tar.gz --images=d.beton --out=ar.tar.gz",
        "import --archive=ar.tar.gz --images=d.beton --out=d.json",
        "import --archive=ar --images=d.beton --out=ar/3.pth.tar",
        "export --reinforced=dm.beton --images=d.beton --out=d.json",
        "write --source=imagefolder --path=photos --split= --out=photos/a/1.png",
        "write --source=digits --out=new.json",
    ],
)
def test_no_run_replaces_what_it_reads(here, line, capsys):
    before = contents(here)
    assert main(line.split()) == 2
    assert contents(here) == before
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "choose another name" in told


def test_other_files_may_be_replaced(here):
    """An earlier output, also one in the folder of the images."""
    check_out(here / "p.beton", [here / "d.beton", here / "dm.beton"], has_manifest=True)
    shutil.copy("p.beton", "photos/p.beton")
    check_out(here / "photos" / "p.beton", [here / "photos"], has_manifest=True)
    (here / "hard.beton").hardlink_to(here / "d.beton")
    with pytest.raises(UserError, match=r"hard.beton: would replace"):
        check_out(here / "hard.beton", [here / "d.beton"])
