"""Device functions compiled by g++: values come back, and what is wrong is found by a sanitizer."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from calib_gpu.testing import gxx
from calib_gpu.testing.compiler import CompilerError

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++, which is not installed"),
]

HEADER = """
#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define CG_FN __device__ __forceinline__
#else
#define CG_FN inline
#endif
CG_FN double scaled(double x, int k) { return x * (1 << k); }
CG_FN int sum(int a, int b) { return a + b; }
"""


def test_arrays_go_in_and_come_out() -> None:
    x, k = np.array([[0.1, -3.0, np.nan], [1e300, 0.0, 5e-324]]), np.arange(6, dtype="i4")
    body = "for (std::size_t i = 0; i < n_x; ++i) { y[i] = scaled(x[i], k[i]); big[i] = y[i] > 1; }"
    y, big = np.zeros((2, 3)), np.full(6, 9, "u1")
    gxx.run(HEADER, body, {"x": x, "k": k}, {"y": y, "big": big})
    np.testing.assert_array_equal(y, x * 2.0 ** k.reshape(2, 3))
    np.testing.assert_array_equal(big, (y > 1).ravel())


def test_results_come_with_what_they_hold() -> None:
    y = np.arange(4.0)[::2]
    gxx.run(HEADER, "y[1] += 0.5;", {}, {"y": y})
    assert y.tolist() == [0.0, 2.5]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("y[0] = x[n_x];", "heap-buffer-overflow"),
        ("for (std::size_t i = 0; i <= n_y; ++i) y[i] = 0;", "heap-buffer-overflow"),
        ("y[0] = sum(k[0], k[0]);", "signed integer overflow"),
        ("y[0] = scaled(1, k[1]);", "shift exponent"),
        ("y[0] = (int)x[0];", "outside the range"),
        ("y[0] = *(const double *)((const char *)x + 4);", "misaligned"),
    ],
)
def test_sanitizers_stop_what_is_wrong(body: str, says: str) -> None:
    arrays = {"x": np.array([1e20, 2.0]), "k": np.array([2**31 - 1, 40], "i4")}
    with pytest.raises(gxx.SanitizerError, match=says):
        gxx.run(HEADER, body, arrays, {"y": np.zeros(2)})


def test_warnings_are_errors() -> None:
    with pytest.raises(CompilerError, match="unused variable"):
        gxx.run(HEADER, "int unused;", {}, {"y": np.zeros(1)})
