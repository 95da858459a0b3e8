"""What a kernel calls becomes part of it, and can be called from Python all the same."""

import numpy as np

from ffdr.jit.kernel import kernel


@kernel
def _double(number):
    return 2 * number


@kernel
def _one_more(number):
    return _double(number) + 1


def test_what_a_kernel_calls_is_compiled_as_a_part_of_it_alone():
    assert _one_more(np.int64(3)) == 7
    assert len(_double.part.overloads) == 1 and not _double.overloads
    assert not _one_more.part.overloads


def test_python_calls_the_kernel_itself():
    assert _double(np.float64(1.5)) == 3.0
    assert len(_double.overloads) == 1
