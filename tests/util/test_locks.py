"""Locks of files that ffdr keeps for them."""

import threading

import pytest

from ffdr.util.atomic import own_lock
from ffdr.util.errors import UserError


def test_a_lock_that_is_held_is_refused_or_waited_for(tmp_path):
    file = tmp_path / "lock"
    waited = threading.Event()

    def wait():
        with own_lock(file):
            waited.set()

    with own_lock(file):
        with pytest.raises(UserError, match="somebody is at work"), own_lock(file, "somebody is at work"):
            pass
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        assert not waited.wait(0.2)
    thread.join(60)  # not the event: it is set while the thread still holds the lock
    assert waited.is_set()
    with own_lock(file, "somebody is at work"):
        pass


def test_a_lock_is_no_link(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with (
        pytest.raises(UserError, match="a symbolic link where ffdr keeps a file of its own"),
        own_lock(tmp_path / "lock"),
    ):
        pass
    assert not (tmp_path / "victim").exists()
