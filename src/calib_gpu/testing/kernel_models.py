"""What each kernel computes, in NumPy, written from ``kernels/*.cuh`` and the rows of the registry: a second opinion.

Sums run in the order of the CUDA text, so that results have its bits wherever only + - * / and sqrt occur; reductions over
channels are summed in NumPy's order, not in CuPy's. Names are those of the registry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from calib_gpu.backend.kernels import COUNT_TYPES, KERNELS, QUAD, SPECTRUM_TYPES, Elementwise, Kernel, Reduction

_TILE = "int64 n_channel, int32 n_dump, int32 n_block, int32 block, int64 in_pixel, int64 in_channel, int64 in_dump, " \
    "int64 out_pixel, int64 out_block, int64 out_channel, int64 out_dump, uint64 fill, int32 has_fill, float64 floor, " \
    "float64 saturation, int32 n_valid"  # fmt: skip
"""What the tile kernel takes behind its arrays."""

Arguments = SimpleNamespace
Model = Callable[[tuple[int, ...], Any], None]


def parameters(kernel: Kernel) -> list[tuple[str, str, bool]]:
    """Name, type and whether it is an array, of all that a launch is given."""
    inputs = kernel.inputs.removeprefix("uint8 like, ") if isinstance(kernel, Reduction) else kernel.inputs
    texts = [inputs, kernel.outputs]
    if not isinstance(kernel, Elementwise | Reduction):
        texts.append(_TILE)
    found = []
    for text in ", ".join(texts).split(", "):
        *raw, dtype, name = text.split()
        found.append((name, dtype, bool(raw) or (isinstance(kernel, Reduction) and text == kernel.outputs)))
    return found


def bind(kernel: Kernel, arguments: Sequence[Any]) -> Arguments:
    """Arguments by name.

    Raises
    ------
    TypeError
        Their number, kinds or types are not those of the kernel.
    """
    wanted = parameters(kernel)
    if len(arguments) != len(wanted):
        raise TypeError(f"{kernel.name} takes {len(wanted)} arguments, not {len(arguments)}")
    bound, of_counts = Arguments(), ""
    for argument, (name, dtype, is_array) in zip(arguments, wanted, strict=True):
        allowed = {"T": tuple(COUNT_TYPES), "U": tuple(SPECTRUM_TYPES)}.get(dtype, (dtype,))
        if isinstance(argument, np.generic) == is_array or argument.dtype.name not in allowed:
            kind = "an array" if is_array else "a scalar"
            raise TypeError(
                f"{kernel.name}: {name} is {kind} of {dtype}, not {type(argument).__name__} {argument.dtype}"
            )
        if dtype == "T":
            if of_counts and argument.dtype.name != of_counts:
                raise TypeError(f"{kernel.name}: counts of two types")
            of_counts = argument.dtype.name
        setattr(bound, name, argument)
    return bound


def run_model(kernel: Kernel, size: tuple[int, ...], arguments: Sequence[Any]) -> None:
    """Run a kernel on flat arrays in C order."""
    flat = [a.reshape(-1) if isinstance(a, np.ndarray) else a for a in arguments]
    with np.errstate(all="ignore"):
        MODELS[kernel.name](size, bind(kernel, flat))


# --- counts


def _missing(counts: NDArray[Any], dump: NDArray[Any], a: Arguments, n_dump: int) -> NDArray[np.bool_]:
    if counts.dtype.kind == "f":
        empty = counts != counts
    else:
        empty = (counts.astype(np.int64).view(np.uint64) == a.fill) & bool(a.has_fill)
    return np.asarray(empty | (dump >= n_dump))


def _finite(counts: NDArray[Any]) -> NDArray[np.bool_]:
    if counts.dtype.kind != "f":
        return np.ones(counts.shape, bool)
    return np.asarray(counts - counts == 0)


def _invalid(counts: NDArray[Any], a: Arguments) -> NDArray[np.bool_]:
    saturation = np.float64(np.float32(a.saturation)) if counts.dtype == np.float32 else a.saturation
    value = counts.astype(np.float64)
    outside = (value <= a.floor) | (value >= saturation)
    return np.asarray(outside & _finite(counts))


def _valid(counts: NDArray[Any], dump: NDArray[Any], a: Arguments) -> NDArray[np.bool_]:
    return ~_missing(counts, dump, a, a.n_dump) & ~_invalid(counts, a) & _finite(counts)


def _sum_of(counts: NDArray[Any], use: NDArray[np.bool_], kind: type) -> NDArray[np.float64]:
    """Sum over axis 1 in ascending order, of the type that is given."""
    values: NDArray[Any] = np.where(use, counts, counts.dtype.type(0)).astype(kind)
    return np.asarray(np.cumsum(values, axis=1)[:, -1].astype(np.float64))


def _census(size: tuple[int, ...], a: Arguments) -> None:
    rows, n_channel = size
    counts = a.counts[: rows * n_channel].reshape(-1, n_channel, a.n_total)
    dump = np.arange(a.n_total)
    valid, missing = _valid(counts, dump, a), _missing(counts, dump, a, a.n_dump)
    a.out[:rows] = (valid.sum(axis=1) + (missing.sum(axis=1) << 32)).reshape(-1)


def _unpack_census(size: tuple[int, ...], a: Arguments) -> None:
    n = size[0]
    a.valid[:n] = a.census[:n] & 0xFFFFFFFF
    a.missing[:n] = a.census[:n] >> 32
    a.empty[:n] = a.missing[:n] == a.n_channel


def _first_dump(size: tuple[int, ...], a: Arguments) -> None:
    a.first[: size[0]] = np.argmax(a.valid[: size[0] * a.n_total].reshape(size[0], a.n_total) > 0, axis=1)


def _dump_sums(size: tuple[int, ...], a: Arguments) -> None:
    n = size[0]
    counts, dump = a.counts[: n * a.n_total].reshape(n, a.n_total), np.arange(a.n_total)
    valid = _valid(counts, dump, a)
    exact = np.float64 if counts.dtype.kind == "f" else np.int64
    a.total[:n], a.valid[:n] = _sum_of(counts, valid, exact), valid.sum(axis=1)
    rows, first = np.arange(n), a.first_dump[np.arange(n) // a.n_channel]
    a.first[:n] = np.where(valid[rows, first], counts[rows, first].astype(np.float64), np.nan)


def _band_means(size: tuple[int, ...], a: Arguments) -> None:
    n = size[0]
    counts = a.counts[: n * a.n_channel].reshape(-1, a.n_channel, a.n_total)
    valid = _valid(counts, np.arange(a.n_total), a)
    number = valid.sum(axis=1)
    a.band[:n] = np.where(
        number > 0, np.cumsum(np.where(valid, counts, 0), axis=1, dtype=np.float64)[:, -1] / number, np.nan
    ).reshape(-1)


# --- loads


def _load_terms(size: tuple[int, ...], a: Arguments) -> None:
    n = slice(size[0])
    hot, cold, zero, g_s, g_i = a.hot[n], a.cold[n], a.zero[n], a.g_signal[n], a.g_image[n]
    contrast = g_s * (a.hot_signal[n] - a.cold_signal[n]) + g_i * (a.hot_image[n] - a.cold_image[n])
    t_hot, t_cold = (g_s * s[n] + g_i * i[n] for s, i in ((a.hot_signal, a.hot_image), (a.cold_signal, a.cold_image)))
    difference = hot - cold
    a.gain[n], a.gamma[n] = difference / contrast, contrast / (g_s * a.eta_f)
    a.trec[n] = (t_hot * (cold - zero) - t_cold * (hot - zero)) / difference
    a.trec_ssb[n], a.difference[n] = a.trec[n] / g_s, difference
    finite = _finite(hot) & _finite(cold) & _finite(difference)
    limited = (hot <= 0) | (cold <= 0) | (hot >= a.saturation) | (cold >= a.saturation) | (hot <= cold)
    a.bad[n] = ~finite | limited


def _running_mean(size: tuple[int, ...], a: Arguments) -> None:
    n, half = int(a.n), int(a.width) // 2
    total, number = np.zeros(n), np.zeros(n)
    for shift in range(max(-half, 1 - n), min(half, n - 1) + 1):
        at = slice(max(0, -shift), min(n, n - shift))
        values = a.values[max(0, shift) : n + min(0, shift)]
        use = _finite(values)
        total[at] += np.where(use, values, 0.0)
        number[at] += use
    a.mean[: size[0]] = np.where(number > 0, total / number, np.nan)[: size[0]]


def _largest(size: tuple[int, ...], a: Arguments) -> None:
    values = a.values[: size[1]]
    a.out[: size[0]] = max(np.where(values == values, values, -math.inf), default=-math.inf)


def _bad_contrast(size: tuple[int, ...], a: Arguments) -> None:
    n = slice(size[0])
    a.bad[n] = (a.bad[n] != 0) | (a.difference[n] < a.clip_counts * a.smooth_max[0]) | ~(a.trec_ssb[n] > 0)


def _count_bad(size: tuple[int, ...], a: Arguments) -> None:
    a.out[: size[0]] = np.count_nonzero(a.bad[: size[1]])


def _median(size: tuple[int, ...], a: Arguments) -> None:
    n = int(a.n)
    good = np.flatnonzero(a.bad[:n] == 0)
    values = a.values[good]
    below = (values[None, :] < values[:, None]) | (values[None, :] == values[:, None]) & (good[None, :] < good[:, None])
    rank, n_good = below.sum(axis=1), n - int(a.n_bad[0])
    for place, wanted in enumerate((math.trunc((n_good - 1) / 2), n_good // 2)):
        for i in np.flatnonzero((rank == wanted) & (good < size[0])):
            a.middle[place] = values[i]


def _bad_trec(size: tuple[int, ...], a: Arguments) -> None:
    n, channel = int(a.n), np.arange(size[0])
    few = n - a.n_bad[0] <= 0
    outlier = (a.trec_ssb[channel] > a.clip_trec * (0.5 * (a.middle[0] + a.middle[1]))) & (not few)
    a.bad[channel] = (a.bad[channel] != 0) | outlier | (channel < a.edge) | (channel >= n - a.edge)


def _whole_if_mostly_bad(size: tuple[int, ...], a: Arguments) -> None:
    n = slice(size[0])
    a.bad[n] = (a.bad[n] != 0) | (float(a.n_bad[0]) > a.fraction * float(a.n))


# --- sky


def _sky_signal(size: tuple[int, ...], a: Arguments) -> None:
    i = np.arange(size[0])
    a.observed[i] = (a.off[i] - a.hot[i]) / a.gain[i]


def _sky_sums(size: tuple[int, ...], a: Arguments) -> None:
    i = np.arange(size[0])
    k = i % a.n
    use = (a.bad[i] == 0) & _finite(a.observed[i])
    w = np.where(use, 1.0 if a.unit else a.weights[i], 0.0)
    y = np.where(use, a.observed[i] - a.k0[k], 0.0)
    wy, a_s, a_i = w * y, a.a_signal[k], a.a_image[k]
    terms = {
        "yy": wy * y,
        "ys": wy * a_s,
        "yi": wy * a_i,
        "ss": w * (a_s * a_s),
        "si": w * (a_s * a_i),
        "ii": w * (a_i * a_i),
    }
    for name, term in (terms | {"w": w, "count": use}).items():
        getattr(a, name)[i] += term


def _squares(size: tuple[int, ...], a: Arguments) -> None:
    n = slice(size[0])
    r1 = np.sqrt(a.ss[n])
    inverse = np.where(r1 > 0, 1.0 / r1, 0.0)
    m1, zero = a.ys[n] * inverse, np.zeros(size[0])
    constant, l21, m2, r2 = a.yy[n] - m1 * m1, zero, zero, zero
    if a.has_image:
        l21 = a.si[n] * inverse
        rest = a.ii[n] - l21 * l21
        r2 = np.where(rest <= 1e-13 * a.ii[n], 0.0, np.sqrt(rest))
        inverse = np.where(r2 > 0, 1.0 / r2, 0.0)
        m2 = (a.yi[n] - l21 * m1) * inverse
        constant = constant - m2 * m2
    a.m1[n], a.r1[n], a.l21[n], a.m2[n], a.r2[n], a.constant[n] = m1, r1, l21, m2, r2, constant


def _row_sums(size: tuple[int, ...], a: Arguments) -> None:
    rows, columns = size
    a.out[:rows] = [a.values[i * a.n : i * a.n + columns].sum() for i in range(rows)]


def _chi2(size: tuple[int, ...], a: Arguments, q: Callable[[int, str], NDArray[Any]]) -> None:
    """Chi2 of each OFF and grid point; ``q`` gives ``[grid, C]`` of an OFF and a band."""
    rows, columns = size
    n_grid, n = int(a.n_grid), int(a.n)
    for o in range(rows // n_grid):
        m1, r1, l21, m2, r2 = (getattr(a, name)[o * n : o * n + columns] for name in ("m1", "r1", "l21", "m2", "r2"))
        q_s = q(o, "signal")
        q_i = q(o, "image") if a.has_image else np.zeros_like(q_s)
        first, second = (q_i * l21 + m1) + q_s * r1, q_i * r2 + m2
        a.out[o * n_grid : (o + 1) * n_grid] = (first * first + second * second).sum(axis=1)


def _chi2_slab(size: tuple[int, ...], a: Arguments) -> None:
    def q(o: int, band: str) -> NDArray[Any]:
        b, c = (getattr(a, f"{name}_{band}")[: size[1]] for name in "bc")
        return np.asarray(np.exp(-a.airmass[o] * (b * a.grid[: a.n_grid, None] + c)))

    _chi2(size, a, q)


def _chi2_nodes(size: tuple[int, ...], a: Arguments) -> None:
    def q(o: int, band: str) -> NDArray[Any]:
        span = slice(o * a.n_node * a.n, (o + 1) * a.n_node * a.n)
        values = getattr(a, f"q_{band}")[span].reshape(a.n_node, a.n)
        weights = a.weights[: a.n_grid * a.taps].reshape(a.n_grid, a.taps)
        return np.array([sum(weights[g, m] * values[a.node[g] + m] for m in range(a.taps)) for g in range(a.n_grid)])

    _chi2(size, a, q)


# --- T_A*


def _calibrate_tile(size: tuple[int, ...], a: Arguments) -> None:
    n_p, n_c, n_d, n_b, block = size[1], int(a.n_channel), int(a.n_dump), int(a.n_block), int(a.block)
    if size[0] != n_c * n_b * math.ceil(block / QUAD):
        raise ValueError(f"calibrate_tile: {size[0]} threads for each pixel")
    on = _strided(a.counts, (n_p, n_c, n_d), (a.in_pixel, a.in_channel, a.in_dump))
    places = (n_p, n_b, n_c, block), (a.out_pixel, a.out_block, a.out_channel, a.out_dump)
    spectra, flags = _strided(a.spectra, *places), _strided(a.flags, *places)
    ref, factor, base = (v[: n_p * n_c].reshape(n_p, n_c, 1) for v in (a.ref, a.factor, a.base))
    quantum = a.quantum[:n_p, None, None]

    difference = on.astype(np.float64) - ref
    exact = difference * factor
    rounded = np.rint(difference * (factor / quantum)) * quantum
    value = np.where((quantum != 0.0) & (np.abs(exact) < quantum * 2.0**53), rounded, exact)
    missing = _missing(on, np.arange(n_d), a, a.n_valid)
    marks = base | np.where(missing, 2, 0) | np.where(_invalid(on, a) & ~missing, 512, 0)
    typed = value.astype(spectra.dtype)
    marks = np.where((marks == 0) & ~_finite(typed), 2048, marks)
    typed[marks != 0] = np.nan

    for b in range(n_b):
        n = max(0, min(block, n_d - b * block))
        here = slice(b * block, b * block + n)
        spectra[:, b, :, :n], flags[:, b, :, :n] = typed[..., here], marks[..., here]
        spectra[:, b, :, n:], flags[:, b, :, n:] = np.nan, 0
    done = min(n_d, n_b * block)
    a.present[:done][((marks[..., :done] & 2) == 0).any(axis=(0, 1))] = 1
    totals = a.totals[: n_p * 17].reshape(n_p, 17)
    for bit in range(16):
        totals[:, bit] += ((marks[..., :done] >> bit) & 1).sum(axis=(1, 2)).astype(np.uint64)
    totals[:, 16] += (marks[..., :done] != 0).sum(axis=(1, 2)).astype(np.uint64)


def _strided(array: NDArray[Any], shape: tuple[int, ...], strides: tuple[Any, ...]) -> NDArray[Any]:
    """A view with strides in elements, within the array."""
    if sum((n - 1) * int(s) for n, s in zip(shape, strides, strict=True)) >= array.size:
        raise ValueError(f"{shape} with strides {strides} is more than {array.size} elements")
    return as_strided(array, shape, [int(s) * array.itemsize for s in strides], writeable=array.flags.writeable)


MODELS: Final[dict[str, Model]] = {name: globals()[f"_{name}"] for name in KERNELS}
"""The model of every kernel of the registry."""
