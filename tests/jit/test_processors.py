"""Kernels for any processor of this kind, without AVX2 and all else that not each of them has, give the same."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
WITH_VECTOR_CODE = [
    "jit/test_simd.py",
    "jit/test_pixels.py",
    "codec/dct/test_decode.py",
    "codec/jpeg/test_region.py::test_whatever_the_quality_and_however_smooth",
]
PYTEST = """
import sys, pytest
from numba.core.registry import cpu_target
assert "avx2" not in cpu_target.target_context.codegen().magic_tuple()[2]
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_the_oracles_of_vector_code_hold_without_it():
    environment = os.environ | {"NUMBA_CPU_NAME": "generic"}
    command = [sys.executable, "-c", PYTEST, *(str(TESTS / name) for name in WITH_VECTOR_CODE)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert " passed" in run.stdout and "skipped" not in run.stdout
