"""Nothing that an archive says drives a terminal or fills a screen."""

from __future__ import annotations

import tarfile
from functools import partial

import archive_oracle as oracle
import pytest
from evil import every_evil, refused, run


@pytest.fixture
def call(capsys):
    """``run``, with what it printed."""
    return partial(run, capsys)


@every_evil
def test_names_in_an_archive(call, digits, tmp_path, evil):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo(evil.encode()[:70].decode("latin-1") + "/0.pth.tar")
        member.size = 20 << 20
        header = member.tobuf(tarfile.USTAR_FORMAT, "latin-1")
        tar.fileobj.write(header)
    refused(call("import", "--archive", path, "--images", digits, "--out", tmp_path / "x.beton"), "0.pth.tar has")


PLACES = {
    "transform": lambda config, evil: config["reinforce"]["image_augmentation"].update({evil: {}}),
    "value": lambda config, evil: config["reinforce"]["image_augmentation"]["rand_augment"].update(fill=evil),
    "size": lambda config, evil: config["reinforce"]["image_augmentation"]["random_resized_crop"].update(size=[evil]),
    "number": lambda config, evil: config["reinforce"]["image_augmentation"]["rand_augment"].update(p=evil),
    "classes": lambda config, evil: config.update(num_classes=evil),
    "samples": lambda config, evil: config["reinforce"].update(num_samples=evil),
}


@every_evil
@pytest.mark.parametrize("place", PLACES)
def test_values_of_an_archives_config(call, digits, tmp_path, place, evil):
    transforms = {name: dict(arguments) for name, arguments in oracle.POLICIES["+RA/RE"].items()}
    config = oracle.config_of(transforms)
    PLACES[place](config, evil)
    entries = oracle.make_entries(oracle.CROP_FLIP, [(32, 32)] * 2)
    folder = oracle.write_folder(tmp_path / "a", oracle.files_of(config, entries))
    status, text = call("import", "--archive", folder, "--images", digits, "--out", tmp_path / "x.beton")
    assert status == 2 and text.count("\n") == (2 if place == "samples" else 1)
