"""What a kernel calls becomes part of it, and can be called from Python all the same."""

import numpy as np
from numba import types

from ffdr.jit.kernel import kernel


@kernel
def _double(number):
    return 2 * number


@kernel
def _one_more(number):
    return _double(number) + 1


def test_what_a_kernel_calls_is_compiled_as_a_part_of_it_alone():
    _one_more.part.compile((types.int64,))  # which no disk keeps
    assert len(_double.part.overloads) == 1 and not _double.overloads
    assert not _one_more.overloads


def test_python_calls_the_kernel_itself():
    assert (_double(np.float64(1.5)), _one_more(np.float64(3))) == (3.0, 7.0)
    assert len(_double.overloads) == 1
