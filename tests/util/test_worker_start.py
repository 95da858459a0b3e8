"""Starting worker processes."""

import sys
import threading

from ffdr.util import workers


def test_threads_that_start_workers_at_once_keep_the_script(monkeypatch):
    script = sys.modules["__main__"]
    monkeypatch.setitem(sys.modules, "__main__", script)  # put back, whatever happens
    entered, first_is_done = threading.Event(), threading.Event()

    def start():
        with workers._without_script():
            entered.set()
            first_is_done.wait(10)

    other = threading.Thread(target=start)
    with workers._without_script():
        assert sys.modules["__main__"] is not script
        other.start()
        entered.wait(0.2)
    first_is_done.set()
    other.join(10)
    assert sys.modules["__main__"] is script
