"""The CUDA kernels: where their sources lie, and one row for each kernel that the engine launches.

The physics stands once, as device functions in ``kernels/*.cuh``. Elementwise and reduction kernels are one call of such
a function; CuPy writes the rest of their source. The tile kernel is written out in ``kernels/calibrate_tile.cu``. All
array parameters are raw pointers to C order, so that each kernel has one specialisation per type of its counts.
"""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from calib_gpu.errors import ConfigError

OPTIONS: Final = ("--fmad=false",)
"""One rounding per operation: float64 results are those of NumPy wherever only + - * / and sqrt occur."""

BLOCK: Final = 256
"""Threads of a block of the tile kernel."""
QUAD: Final = 4
"""Dumps that a thread of the tile kernel takes."""

COUNT_TYPES: Final = {
    "int32": "int", "uint32": "unsigned int", "int64": "long long", "int16": "short", "uint16": "unsigned short",
    "float32": "float", "float64": "double",
}  # fmt: skip
"""Types of counts that L0 may have, and their names in CUDA."""
SPECTRUM_TYPES: Final = {"float64": "double", "float32": "float"}


@dataclass(frozen=True)
class Kernel:
    """A kernel; ``inputs`` and ``outputs`` are CuPy parameter lists, ``T`` in them is the type of the counts."""

    name: str
    inputs: str
    outputs: str

    @property
    def typed(self) -> bool:
        """True where there is a specialisation for each type of counts."""
        return re.search(r"\bT\b", self.inputs) is not None


@dataclass(frozen=True)
class Elementwise(Kernel):
    """``operation`` is run for each index ``i``."""

    operation: str


@dataclass(frozen=True)
class Reduction(Kernel):
    """``value`` of each row ``_i`` and column ``_J`` is reduced over the columns, by ``reduce`` from ``identity`` on.

    The first input, ``like``, gives nothing but the index range. CuPy's tree of sums depends on the number of columns
    alone: the same bits on every run and device.
    """

    value: str
    reduce: str
    identity: str
    reduce_type: str
    result: str = "out = a"

    @property
    def map_expression(self) -> str:
        """``value`` for rows that there are. CuPy maps those beyond the end, too, whose results it drops."""
        return f"_i < _out_ind.size() ? ({self.reduce_type})({self.value}) : ({self.reduce_type})({self.identity})"


@dataclass(frozen=True)
class Raw(Kernel):
    """A kernel written out in ``kernels/<name>.cu``."""


_RULE = "uint64 fill, int32 has_fill, float64 floor, float64 saturation, int32 n_dump"
_LOADS = "raw float64 hot, raw float64 cold, raw float64 zero, raw float64 hot_signal, raw float64 hot_image, " \
    "raw float64 cold_signal, raw float64 cold_image, raw float64 g_signal, raw float64 g_image, float64 eta_f, " \
    "float64 saturation"  # fmt: skip
_SUMS = "raw float64 yy, raw float64 ys, raw float64 yi, raw float64 ss, raw float64 si, raw float64 ii"
_SQUARES = "raw float64 m1, raw float64 r1, raw float64 l21, raw float64 m2, raw float64 r2"
_AT = ", ".join(f"{name}[_i / n_grid * n + _J]" for name in ("m1", "r1", "l21", "m2", "r2"))
_NODE = "(_i / n_grid * n_node + node[_i % n_grid]) * n + _J"

_ROWS = (
    # --- counts of loads and OFFs: P pixels, C channels, D dumps
    Reduction(
        "census", f"uint8 like, raw T counts, int64 n_channel, int32 n_total, {_RULE}", "int64 out",
        "cg_census(counts[(_i / n_total * n_channel + _J) * n_total + _i % n_total], int(_i % n_total), "
        "cg_rule(fill, has_fill, floor, saturation, n_dump))",
        "a + b", "0", "long long",
    ),
    Elementwise(
        "unpack_census", "raw int64 census, int64 n_channel", "raw int64 valid, raw int64 missing, raw uint8 empty",
        "valid[i] = census[i] & 0xffffffffLL; missing[i] = census[i] >> 32; empty[i] = missing[i] == n_channel;",
    ),
    Elementwise(
        "first_dump", "raw int64 valid, int32 n_total", "raw int32 first",
        "first[i] = cg_first_dump(&valid[i * n_total], n_total);",
    ),
    Elementwise(
        "dump_sums", f"raw T counts, raw int32 first_dump, int64 n_channel, int32 n_total, {_RULE}",
        "raw float64 total, raw int64 valid, raw float64 first",
        "cg_dump_sums<T>(&counts[i * n_total], n_total, first_dump[i / n_channel], "
        "cg_rule(fill, has_fill, floor, saturation, n_dump), &total[i], &valid[i], &first[i]);",
    ),
    Elementwise(
        "band_means", f"raw T counts, int64 n_channel, int32 n_total, {_RULE}", "raw float64 band",
        "int d = int(i % n_total); band[i] = cg_band_mean<T>(&counts[i / n_total * n_channel * n_total + d], n_channel, "
        "n_total, d, cg_rule(fill, has_fill, floor, saturation, n_dump));",
    ),
    # --- load calibration of one pixel [C]
    Elementwise(
        "load_terms", _LOADS,
        "raw float64 gain, raw float64 gamma, raw float64 trec, raw float64 trec_ssb, raw float64 difference, raw uint8 bad",
        "double contrast = cg_load_contrast(g_signal[i], g_image[i], hot_signal[i], hot_image[i], cold_signal[i], "
        "cold_image[i]);\n"
        "gain[i] = cg_gain(hot[i], cold[i], contrast); gamma[i] = cg_gamma(contrast, g_signal[i], eta_f);\n"
        "trec[i] = cg_receiver_temperature(hot[i], cold[i], zero[i], "
        "g_signal[i] * hot_signal[i] + g_image[i] * hot_image[i], g_signal[i] * cold_signal[i] + g_image[i] * cold_image[i]);\n"
        "trec_ssb[i] = trec[i] / g_signal[i]; difference[i] = hot[i] - cold[i];\n"
        "bad[i] = cg_bad_counts(hot[i], cold[i], saturation);",
    ),
    Elementwise(
        "running_mean", "raw float64 values, int64 n, int32 width", "raw float64 mean",
        "mean[i] = cg_running_mean(&values[0], n, i, width);",
    ),
    Reduction(
        "largest", "uint8 like, raw float64 values", "float64 out", "values[_J] == values[_J] ? values[_J] : -CUDART_INF",
        "a > b ? a : b", "-CUDART_INF", "double",
    ),
    Elementwise(
        "bad_contrast", "raw float64 difference, raw float64 trec_ssb, raw float64 smooth_max, float64 clip_counts",
        "raw uint8 bad",
        "bad[i] = bad[i] || cg_bad_contrast(difference[i], clip_counts, smooth_max[0], trec_ssb[i]);",
    ),
    Reduction("count_bad", "uint8 like, raw uint8 bad", "int64 out", "bad[_J] != 0", "a + b", "0", "long long"),
    Elementwise(
        "median", "raw float64 values, raw uint8 bad, raw int64 n_bad, int64 n", "raw float64 middle",
        "if (!bad[i]) { long long rank = cg_rank(&values[0], &bad[0], n, i), good = n - n_bad[0]; "
        "if (rank == (good - 1) / 2) middle[0] = values[i]; if (rank == good / 2) middle[1] = values[i]; }",
    ),
    Elementwise(
        "bad_trec", "raw float64 trec_ssb, raw float64 middle, raw int64 n_bad, float64 clip_trec, int64 edge, int64 n",
        "raw uint8 bad",
        "bad[i] = bad[i] || cg_bad_trec(trec_ssb[i], clip_trec, middle[0], middle[1], n - n_bad[0], i, n, edge);",
    ),
    Elementwise(
        "whole_if_mostly_bad", "raw int64 n_bad, float64 fraction, int64 n", "raw uint8 bad",
        "bad[i] = bad[i] || double(n_bad[0]) > fraction * double(n);",
    ),
    # --- sky signal and water vapour: O OFFs, C channels (or bins), J grid points
    Elementwise(
        "sky_signal", "raw float64 off, raw float64 hot, raw float64 gain", "raw float64 observed",
        "observed[i] = cg_sky_signal(off[i], hot[i], gain[i]);",
    ),
    Elementwise(
        "sky_sums", "raw float64 observed, raw uint8 bad, raw float64 weights, raw float64 k0, raw float64 a_signal, "
        "raw float64 a_image, int32 unit, int64 n",
        "raw float64 yy, raw float64 ys, raw float64 yi, raw float64 ss, raw float64 si, raw float64 ii, raw float64 w, "
        "raw int64 count",
        "CgSums sums; sums.yy = &yy[0]; sums.ys = &ys[0]; sums.yi = &yi[0]; sums.ss = &ss[0]; sums.si = &si[0]; "
        "sums.ii = &ii[0]; sums.w = &w[0]; sums.n = (cg_int64 *)&count[0];\n"
        "cg_add_datum(sums, i, observed[i], bad[i] != 0, unit ? 1.0 : weights[i], k0[i % n], a_signal[i % n], "
        "a_image[i % n]);",
    ),
    Elementwise(
        "squares", f"{_SUMS}, int32 has_image", f"{_SQUARES}, raw float64 constant",
        "CgSquares s = cg_squares(yy[i], ys[i], yi[i], ss[i], si[i], ii[i], has_image != 0);\n"
        "m1[i] = s.m1; r1[i] = s.r1; l21[i] = s.l21; m2[i] = s.m2; r2[i] = s.r2; constant[i] = s.constant;",
    ),
    Reduction(
        "row_sums", "uint8 like, raw float64 values, int64 n", "float64 out", "values[_i * n + _J]", "a + b", "0", "double",
    ),
    Reduction(
        "chi2_slab", f"uint8 like, {_SQUARES}, raw float64 grid, raw float64 airmass, raw float64 b_signal, "
        "raw float64 c_signal, raw float64 b_image, raw float64 c_image, int32 has_image, int64 n_grid, int64 n",
        "float64 out",
        f"cg_chi2_term({_AT}, cg_slab(b_signal[_J], c_signal[_J], grid[_i % n_grid], airmass[_i / n_grid]), "
        "has_image ? cg_slab(b_image[_J], c_image[_J], grid[_i % n_grid], airmass[_i / n_grid]) : 0.0)",
        "a + b", "0", "double",
    ),
    Reduction(
        "chi2_nodes", f"uint8 like, {_SQUARES}, raw int32 node, raw float64 weights, raw float64 q_signal, "
        "raw float64 q_image, int32 has_image, int32 taps, int64 n_node, int64 n_grid, int64 n",
        "float64 out",
        f"cg_chi2_term({_AT}, cg_at_nodes(&q_signal[{_NODE}], n, &weights[_i % n_grid * taps], taps), "
        f"has_image ? cg_at_nodes(&q_image[{_NODE}], n, &weights[_i % n_grid * taps], taps) : 0.0)",
        "a + b", "0", "double",
    ),
    # --- T_A*
    Raw(
        "calibrate_tile",
        "raw T counts, raw float64 ref, raw float64 factor, raw uint16 base, raw float64 quantum",
        "raw U spectra, raw uint16 flags, raw uint64 totals, raw uint8 present",
    ),
)  # fmt: skip

KERNELS: Final = {kernel.name: kernel for kernel in _ROWS}
"""Every kernel that the engine launches, by name."""


def folder() -> Path:
    """Where the CUDA sources lie: in the installed package, or in the source tree beside ``src``.

    Raises
    ------
    ConfigError
        They are in neither.
    """
    package = Path(__file__).parents[1]
    for place in (package / "kernels", package.parents[1] / "kernels"):
        if (place / "calib.cuh").is_file():
            return place
    raise ConfigError("the CUDA sources are missing", array=str(package / "kernels"), fix="install calib-gpu again")


_INCLUDE = re.compile(r'^#include "([\w.]+)"$', re.MULTILINE)


@functools.cache
def source(*names: str) -> str:
    """The text of some CUDA files, each include written out once: what is compiled does not depend on a search path."""
    seen: set[str] = set()

    def text(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        lines = (folder() / name).read_text(encoding="utf-8").replace("#pragma once\n", "")
        return _INCLUDE.sub(lambda found: text(found[1]), lines)

    return "".join(map(text, names))


def preamble() -> str:
    """All device functions: what elementwise and reduction kernels may call."""
    return source("samples.cuh", "loads.cuh", "sky.cuh")


def tile_source(counts: str, spectrum: str) -> str:
    """The tile kernel for a type of counts and of spectra (NumPy names)."""
    defines = {"COUNT": COUNT_TYPES[counts], "SPECTRUM": SPECTRUM_TYPES[spectrum], "CG_QUAD": QUAD}
    return "".join(f"#define {name} {value}\n" for name, value in defines.items()) + source("calibrate_tile.cu")


def sources_digest() -> str:
    """sha256 of all CUDA sources and of the rows above."""
    digest = hashlib.sha256(repr(_ROWS).encode())
    for path in sorted(folder().glob("*.cu*")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Specialisation:
    """A kernel for one type of counts and of spectra (NumPy names; empty where it has no such parameter)."""

    kernel: Kernel
    counts: str = ""
    spectrum: str = ""

    @property
    def name(self) -> str:
        """E.g. ``calibrate_tile<int32, float64>``."""
        types = ", ".join(filter(None, (self.counts, self.spectrum)))
        return f"{self.kernel.name}<{types}>" if types else self.kernel.name


def specialisations() -> list[Specialisation]:
    """Everything that the engine can launch."""
    found = []
    for kernel in KERNELS.values():
        counts = list(COUNT_TYPES) if kernel.typed else [""]
        spectra = list(SPECTRUM_TYPES) if isinstance(kernel, Raw) else [""]
        found += [Specialisation(kernel, c, s) for c in counts for s in spectra]
    return found
