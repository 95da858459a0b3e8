"""Names that are too long for a tar header's first part are read whole, in each of the ways that tar files have."""

import tarfile

import fkd_oracle as oracle
import pytest

from ffdr.archive.tar import Tar


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_are_read_whole(tmp_path, form):
    files = {f"train/n00000001/{'x' * 92}.tar": b"1", "train/n00000002/y.tar": b"2"}
    path = oracle.write_tar(tmp_path / "a.tar", files, form=form)
    assert dict(Tar(path, 1).files(str)) == files
