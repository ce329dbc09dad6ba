"""NVRTC without a GPU: what it compiles, what ptxas says, and CuPy's own kernels run from their PTX."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest

from calib_gpu.testing.nvrtc import NvrtcError, compile_raw, libraries
from calib_gpu.testing.ptx import PtxKernel, carray, indexer
from calib_gpu.testing.resources import nvdisasm, ptx_widths, resources, sass_widths
from one_instruction import needs_compiler

ARCHS = ("75", "80", "86", "89", "90", "100", "120")
pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(not libraries(), reason="needs NVRTC (extra kernels), which is not installed"),
]
needs_cupy = pytest.mark.skipif(
    importlib.util.find_spec("cupy") is None, reason="needs CuPy (extra kernels), which is not installed"
)

COPY = """
extern "C" __global__ void copy(const float4* __restrict__ from, double2* to, unsigned char* flags, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float4 v = from[i];
    to[2 * i] = make_double2(v.x, v.y);
    to[2 * i + 1] = make_double2(v.z, v.w);
    flags[i] = isnan(v.x);
}
"""
GREEDY = """
extern "C" __global__ void __launch_bounds__(1024, 2) greedy(const double* x, double* y, int n) {
    double held[40];
    for (int k = 0; k < 40; k++) held[k] = x[threadIdx.x * 40 + k];
    __syncthreads();
    double sum = 0;
    for (int r = 0; r < n; r++)
        for (int k = 0; k < 40; k++) { held[k] = held[k] * held[(k + 1) % 40] + r; sum += held[k]; }
    y[threadIdx.x] = sum;
}
"""


@pytest.mark.parametrize("arch", ARCHS)
def test_a_kernel_compiles_for_every_architecture_without_spills(arch: str) -> None:
    made = compile_raw(COPY, arch, "cubin")
    assert made.code.startswith(b"\x7fELF")
    found = resources(made)["copy"]
    assert found.spills == 0
    assert 8 <= found.registers <= 64
    ptx = compile_raw(COPY, f"sm_{arch}").text
    assert f".target sm_{arch}" in ptx
    assert ptx_widths(ptx, "copy").loads == {16: 1}
    assert ptx_widths(ptx, "copy").stores == {1: 1, 16: 2}


@pytest.mark.skipif(nvdisasm() is None, reason="needs nvdisasm (extra kernels), which is not installed")
def test_machine_code_has_the_widths_of_the_ptx() -> None:
    widths = sass_widths(compile_raw(COPY, 90, "cubin"), "copy")
    assert (widths.loads, widths.stores) == ({16: 1}, {1: 1, 16: 2})


@pytest.mark.skipif(
    not any("70" in lib.archs for lib in libraries()), reason="needs the NVRTC of CUDA 12, which is not installed"
)
def test_volta_compiles_with_the_compiler_of_cuda_12() -> None:
    assert resources(compile_raw(COPY, 70, "cubin"))["copy"].spills == 0
    assert ".target sm_70" in compile_raw(COPY, 70).text


def test_spills_are_seen() -> None:
    found = resources(compile_raw(GREEDY, 80, "cubin"))["greedy"]
    assert found.registers <= 32
    assert found.spill_stores > 0
    assert found.spill_loads > 0


def test_shared_memory_is_seen() -> None:
    source = """
    extern "C" __global__ void k(int* y) {
        __shared__ int s[300];
        s[threadIdx.x] = y[threadIdx.x];
        __syncthreads();
        y[threadIdx.x] = s[299 - threadIdx.x];
    }
    """
    assert resources(compile_raw(source, 80, "cubin"))["k"].shared == 1200


def test_headers_and_name_expressions() -> None:
    source = '#include "own.cuh"\ntemplate <typename T> __global__ void k(T* y) { *y = own(*y); }'
    header = "template <typename T> __device__ __forceinline__ T own(T x) { return x + T(1); }"
    made = compile_raw(source, 80, headers={"own.cuh": header}, names=("k<float>", "k<double>"))
    assert sorted(made.names) == ["k<double>", "k<float>"]
    assert all(f".entry {name}(" in made.text for name in made.names.values())


def test_no_contraction_unless_asked_for() -> None:
    source = 'extern "C" __global__ void k(double* y) { y[0] = y[1] * y[2] + y[3]; }'
    assert "fma" not in compile_raw(source, 80).text
    assert "fma" in compile_raw(source, 80, options=("--fmad=true",)).text


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(NvrtcError, match="undefined_name"):
        compile_raw("__global__ void k() { undefined_name(); }", 80)
    with pytest.raises(NvrtcError, match="sm_35"):
        compile_raw(COPY, 35)
    with pytest.raises(NvrtcError, match="cubin"):
        resources(compile_raw(COPY, 80))


@needs_compiler
@pytest.mark.parametrize("arch", ARCHS)
def test_ptx_of_every_architecture_runs(arch: str) -> None:
    data = np.random.default_rng(1).normal(size=4 * 100).astype("f4")
    data[::8] = np.nan
    out, flags = np.zeros(400), np.zeros(100, "u1")
    PtxKernel(compile_raw(COPY, arch).text, "copy").run(4, 32, [data, out, flags, np.int32(100)])
    np.testing.assert_array_equal(out, data.astype("f8"))
    np.testing.assert_array_equal(flags, np.isnan(data[::4]))


# --- CuPy's own kernels


@needs_cupy
@needs_compiler
@pytest.mark.parametrize("dtype", ["i4", "f4", "f8"])
@pytest.mark.parametrize("contiguous", [True, False])
def test_elementwise_kernel(dtype: str, contiguous: bool) -> None:
    import cupy

    from calib_gpu.testing.cupy_source import ArrayType, ScalarType, cupy_options, elementwise_source

    made = cupy.ElementwiseKernel(
        "T v, raw float64 gain, float64 scale", "float64 y, uint8 flag",
        "double x = ((double)v / gain[i % 7] - 1.0) * scale; y = x; flag = isnan(x) ? 2 : x < 0 ? 1 : 0;", "shape_test",
    )  # fmt: skip
    ndim = 1 if contiguous else 3
    types = [
        ArrayType(dtype, ndim, contiguous),
        ArrayType("f8"),
        ScalarType("f8"),
        ArrayType("f8", ndim),
        ArrayType("u1", ndim),
    ]
    source = elementwise_source(made, types, ndim=ndim)
    kernel = PtxKernel(compile_raw(source, 80, options=cupy_options()).text, "shape_test")
    assert not kernel.approximate
    rng = np.random.default_rng(6)
    values = (rng.normal(size=(5, 6, 11)) * 1e6).astype(dtype)
    if dtype != "i4":
        values[0, 0, :3] = np.nan, np.inf, -0.0
    else:
        values[0, 0, :2] = np.iinfo("i4").min, np.iinfo("i4").max
    v = values if contiguous else np.moveaxis(values, 0, 2)[:, ::-2]
    y, flag, gain = np.zeros(v.shape), np.zeros(v.shape, "u1"), rng.normal(1, 0.1, 7)
    flat = (lambda a: a.ravel()) if contiguous else (lambda a: a)
    shape: Any = v.size if contiguous else v.shape
    for order in ("forward", "shuffled"):
        y[:], flag[:] = 0, 9
        args = [carray(flat(v)), carray(gain), np.float64(3.7), carray(flat(y)), carray(flat(flag)), indexer(shape)]
        kernel.run(3, 128, args, order=order)
        expected = (v.astype("f8") / gain[np.arange(v.size) % 7].reshape(v.shape) - 1.0) * 3.7
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(flag, np.where(np.isnan(expected), 2, np.where(expected < 0, 1, 0)))


@needs_cupy
@needs_compiler
@pytest.mark.parametrize("rows", [1, 3, 700])
def test_reduction_kernel(rows: int) -> None:
    import cupy

    from calib_gpu.testing.cupy_source import ArrayType, cupy_options, reduction_source

    made = cupy.ReductionKernel(
        "T x, T w", "float64 y", "(double)x * (double)w", "a + b", "y = a", "0", "weighted", reduce_type="double"
    )
    source = reduction_source(made, [ArrayType("f4"), ArrayType("f4"), ArrayType("f8")])
    kernel = PtxKernel(compile_raw(source, 80, options=cupy_options()).text, "weighted")
    x, w = np.random.default_rng(7).integers(-1000, 1000, (2, rows, 37)).astype("f4")
    expected = np.sum(x.astype("f8") * w, axis=0)  # of integers, so that the order of sums does not matter
    for order in ("forward", "reversed", "shuffled"):
        y = np.zeros(37)
        args = [carray(x.ravel()), carray(w.ravel()), carray(y), indexer(rows * 37), indexer(37), np.int32(32)]
        kernel.run(2, 512, args, order=order)  # type: ignore[arg-type]
        np.testing.assert_array_equal(y, expected)


@needs_cupy
@needs_compiler
def test_cupy_functions_agree_with_numpy() -> None:
    import cupy

    from calib_gpu.testing.cupy_source import ArrayType, cupy_options, elementwise_source

    operations = {
        "e": "exp(x)",
        "m": "expm1(x)",
        "l": "log(fabs(x))",
        "p": "log1p(fabs(x))",
        "s": "sqrt(fabs(x))",
        "r": "rint(x)",
    }
    outputs = ", ".join(f"float64 {name}" for name in operations)
    made = cupy.ElementwiseKernel(
        "float64 x", outputs, "; ".join(f"{n} = {t}" for n, t in operations.items()), "functions"
    )
    source = elementwise_source(made, [ArrayType("f8")] * 7)
    kernel = PtxKernel(compile_raw(source, 80, options=cupy_options()).text, "functions")
    assert kernel.approximate == {"rcp.approx.ftz.f64"}
    rng = np.random.default_rng(5)
    x = np.concatenate(
        [
            rng.normal(size=2000),
            rng.normal(size=2000) * 1e-9,
            rng.uniform(-700, 700, 2000),
            [0.0, -0.0, np.inf, -np.inf, np.nan],
        ]
    )
    results = {name: np.zeros_like(x) for name in operations}
    kernel.run(10, 128, [carray(x), *(carray(r) for r in results.values()), indexer(x.size)])
    with np.errstate(all="ignore"):
        expected = {
            "e": np.exp(x),
            "m": np.expm1(x),
            "l": np.log(np.abs(x)),
            "p": np.log1p(np.abs(x)),
            "s": np.sqrt(np.abs(x)),
            "r": np.rint(x),
        }
    for name in "sr":
        np.testing.assert_array_equal(results[name], expected[name])
    for name in "emlp":
        np.testing.assert_array_max_ulp(results[name][:-1], expected[name][:-1], maxulp=3)
        assert np.isnan(results[name][-1])
