"""Every kernel that the engine launches, run three ways on the same odd data: g++ under sanitizers, PTX, and its NumPy model."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backends import why_no_ptx
from calib_gpu.backend.kernels import Elementwise, Raw, Reduction, Specialisation, specialisations
from calib_gpu.testing.gxx import SanitizerError
from calib_gpu.testing.host_kernels import run_host
from calib_gpu.testing.kernel_models import parameters, run_model

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++, which is not installed"),
]

# 2 OFFs or pixels of 5 channels or bins, 4 dumps of which 3 hold data, 2 grid points, 4 nodes
SCALARS: dict[str, Any] = {
    "n_channel": 5, "n_total": 4, "n_dump": 3, "n_valid": 3, "n": 5, "width": 3, "n_grid": 2, "taps": 2, "n_node": 4,
    "edge": 1, "has_fill": 1, "has_image": 1, "unit": 0, "floor": 0.0, "saturation": 9_000.0, "eta_f": 0.95,
    "clip_counts": 0.7, "clip_trec": 3.0, "fraction": 0.1, "n_block": 2, "block": 2, "in_pixel": 20, "in_channel": 4,
    "in_dump": 1, "out_pixel": 20, "out_block": 10, "out_channel": 2, "out_dump": 1,
}  # fmt: skip
INDICES = {
    "first": [0, 1, 2, 3, 4, 5], "node": [0, 1], "first_dump": [0, 1], "census": [3 + (2 << 32)] * 8,
}  # fmt: skip
ROOM = 64


def arguments(spec: Specialisation) -> list[NDArray[Any] | np.generic]:
    """Random arguments with missing, dead, saturated and not finite values among them."""
    rng = np.random.default_rng(12)
    given: list[NDArray[Any] | np.generic] = []
    for name, kind, is_array in parameters(spec.kernel):
        dtype = np.dtype({"T": spec.counts, "U": spec.spectrum}.get(kind, kind))
        fill = np.iinfo(spec.counts).max if spec.counts and spec.counts[0] != "f" else 0
        if not is_array:
            given.append(dtype.type(fill if name == "fill" else SCALARS[name]))
        elif kind == "T":
            counts = rng.uniform(1, 8_000, ROOM).astype(dtype)
            odd = [0, 9_000, *([fill] if fill else [np.nan, np.inf, -np.inf])]
            counts[rng.random(ROOM) < 0.3] = np.array(odd).astype(dtype)[rng.integers(len(odd))]
            given.append(counts)
        elif name in INDICES and dtype.kind == "i":
            given.append(np.resize(np.array(INDICES[name], dtype), ROOM))
        elif dtype.kind in "iu":
            given.append(rng.integers(0, 2, ROOM).astype(dtype))
        else:
            values = rng.uniform(0.5, 2.0, ROOM).astype(dtype)
            values[rng.random(ROOM) < 0.1] = np.nan
            given.append(values)
    return given


def launch_size(spec: Specialisation) -> tuple[int, ...]:
    if isinstance(spec.kernel, Elementwise):
        return ({"first_dump": 2, "band_means": 8}.get(spec.kernel.name, 5),)
    return (4, 5) if isinstance(spec.kernel, Reduction) else (10, 2)


@pytest.mark.slow
@pytest.mark.skipif(bool(why_no_ptx()), reason=why_no_ptx() or "PTX runs here")
@pytest.mark.parametrize("spec", specialisations(), ids=lambda spec: spec.name)
def test_three_ways_give_one_result(spec: Specialisation) -> None:
    from calib_gpu.testing.compiled_kernels import run_ptx

    ways = {"g++": run_host, "ptx": run_ptx, "model": run_model}
    found = {}
    for way, run in ways.items():
        given = arguments(spec)
        run(spec.kernel, launch_size(spec), given)
        found[way] = given
    assert any(
        not np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip(found["g++"], arguments(spec), strict=True)
        if isinstance(a, np.ndarray)
    ), "the kernel changed nothing"
    for way in ("ptx", "model"):
        for got, expected in zip(found[way], found["g++"], strict=True):
            if isinstance(spec.kernel, Reduction) and got.dtype.kind == "f":  # another order of sums, another exp
                np.testing.assert_allclose(got, expected, rtol=1e-13)
            else:
                np.testing.assert_array_equal(got, expected)


def test_a_kernel_that_reads_beside_its_array_is_stopped() -> None:
    x, y = np.arange(3.0), np.zeros(3)
    good = Elementwise("twice", "raw float64 x", "raw float64 y", "y[i] = 2 * x[i];")
    run_host(good, (3,), [x, y])
    assert y.tolist() == [0.0, 2.0, 4.0]
    with pytest.raises(SanitizerError, match="heap-buffer-overflow"):
        run_host(Elementwise("beside", "raw float64 x", "raw float64 y", "y[i] = x[i + 1];"), (3,), [x, y])
    assert y.tolist() == [0.0, 2.0, 4.0]


def test_reductions_go_over_the_columns_of_each_row() -> None:
    kernel = Reduction("least", "uint8 like, raw float64 x, int64 n", "float64 out", "x[_i * n + _J]", "a < b ? a : b",
                       "CUDART_INF", "double")  # fmt: skip
    x, out = np.array([[3.0, 1.0, 2.0], [-1.0, 5.0, 4.0]]), np.zeros(2)
    run_host(kernel, (2, 3), [x.ravel(), np.int64(3), out])
    assert out.tolist() == [1.0, -1.0]


def test_every_kernel_is_of_a_kind_that_is_run() -> None:
    assert {type(spec.kernel) for spec in specialisations()} <= {Elementwise, Reduction, Raw}
