"""Floating-point instructions of PTX, against exact fractions and the rules of IEEE 754 and the PTX ISA."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from one_instruction import evaluate, exact_round, grid, needs_compiler, same

pytestmark = [pytest.mark.kernels, needs_compiler]

NAN, INF = math.nan, math.inf
SPECIAL = {
    "f4": [0.0, -0.0, 1.0, -1.0, 1.5, 3.0, 0.1, -0.3, 1e-45, -1e-45, 1.1754942e-38, 1.1754944e-38, 3.4028235e38,
           -3.4028235e38, 1 + 2.0**-23, 16777217.0, INF, -INF, NAN],
    "f8": [0.0, -0.0, 1.0, -1.0, 1.5, 3.0, 0.1, -0.3, 5e-324, -5e-324, 2.225073858507201e-308, 2.2250738585072014e-308,
           1.7976931348623157e308, -1.7976931348623157e308, 1 + 2.0**-52, 1e16 + 2, INF, -INF, NAN],
}  # fmt: skip
PTX = {"f4": "f32", "f8": "f64"}
EXACT: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
}


def plain(name: str, a: Any, b: Any) -> Any:
    """The result of IEEE 754 where it is not finite, or a zero: NumPy's, whose scalars follow the standard."""
    with np.errstate(all="ignore"):
        return {"add": a + b, "sub": a - b, "mul": a * b, "div": a / b}[name]


def expected(name: str, a: Any, b: Any, kind: str, mode: str) -> Any:
    """One operation with one rounding."""
    finite = np.isfinite(a) and np.isfinite(b) and not (name == "div" and b == 0)
    if not finite:
        return plain(name, a, b)
    value = EXACT[name](Fraction(float(a)), Fraction(float(b)))
    if value == 0:
        signed = plain(name, a, b)
        cancelled = name in ("add", "sub") and not (a == 0 and b == 0)
        opposite = name in ("add", "sub") and a == 0 and b == 0 and np.signbit(a) != (np.signbit(b) ^ (name == "sub"))
        return signed.dtype.type(-0.0) if mode == "rm" and (cancelled or opposite) else signed
    rounded = exact_round(value, kind, mode)
    return np.copysign(rounded, np.dtype(kind).type(-1 if value < 0 else 1))


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_sums_products_quotients_are_rounded_once(kind: str) -> None:
    a, b = grid(SPECIAL[kind], kind)
    instructions = {
        f"{name}_{mode}": (f"{name}.{mode}.{PTX[kind]} %d, %a, %b;", kind)
        for name in EXACT
        for mode in ("rn", "rz", "rm", "rp")
    }
    found = evaluate(instructions, {"a": a, "b": b})
    for result, values in found.items():
        name, mode = result.split("_")
        same(values, np.array([expected(name, x, y, kind, mode) for x, y in zip(a, b, strict=True)], kind))


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_fma_has_one_rounding(kind: str) -> None:
    rng = np.random.default_rng(4)
    a, b = (rng.normal(size=300).astype(kind) for _ in range(2))
    c = (-a * b).astype(kind)  # what is left is the rounding error of the product, which two roundings lose
    modes = ("rn", "rz", "rm", "rp")
    found = evaluate({m: (f"fma.{m}.{PTX[kind]} %d, %a, %b, %c;", kind) for m in modes}, {"a": a, "b": b, "c": c})
    assert np.count_nonzero(found["rn"]) > 250
    for mode in modes:
        exact = [Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)) for x, y, z in zip(a, b, c, strict=True)]
        zero = np.dtype(kind).type(-0.0 if mode == "rm" else 0.0)
        same(found[mode], np.array([exact_round(v, kind, mode) if v else zero for v in exact], kind))


def test_flushed_float32_loses_subnormals_on_the_way_in_and_out() -> None:
    small, tiny = np.float32(1.1754944e-38), np.float32(1e-40)
    a = np.array([small, tiny, -tiny, small, 1.0], "f4")
    b = np.array([0.5, 1e5, 1e5, 1.5 * small, NAN], "f4")
    found = evaluate(
        {
            "mul": ("mul.rn.ftz.f32 %d, %a, %b;", "f4"),
            "sub": ("sub.rn.ftz.f32 %d, %a, %b;", "f4"),
            "kept": ("mul.rn.f32 %d, %a, %b;", "f4"),
            "less": ("setp.lt.ftz.f32 %d, %a, 0f00000001;", "b1"),
            "wide": ("cvt.ftz.f64.f32 %d, %a;", "f8"),
            "neg": ("neg.ftz.f32 %d, %a;", "f4"),
            "bits": ("{ .reg .f32 %s; sub.rn.f32 %s, %a, %b; mov.b32 %d, %s; }", "u4"),
        },
        {"a": a, "b": b},
    )
    same(found["mul"], np.array([0.0, 0.0, -0.0, 0.0, NAN], "f4"))
    same(found["sub"], np.array([-0.5, -1e5, -1e5, -0.0, NAN], "f4"))  # small - 1.5 small is a subnormal below 0
    same(
        found["kept"],
        np.array([small * np.float32(0.5), tiny * np.float32(1e5), -tiny * np.float32(1e5), 0.0, NAN], "f4"),
    )
    assert found["less"].tolist() == [False] * 5  # the literal is a subnormal, so that it is 0
    same(found["wide"], np.array([float(small), 0.0, -0.0, float(small), 1.0]))
    same(found["neg"], np.array([-small, -0.0, 0.0, -small, -1.0], "f4"))
    assert found["bits"][4] == 0x7FFFFFFF


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_roots_and_reciprocals(kind: str) -> None:
    a = np.array([*SPECIAL[kind], 2.0, 0.7, 1e10], kind)
    found = evaluate(
        {"sqrt": (f"sqrt.rn.{PTX[kind]} %d, %a;", kind), "rcp": (f"rcp.rn.{PTX[kind]} %d, %a;", kind)}, {"a": a}
    )
    for x, root, inverse in zip(a, found["sqrt"], found["rcp"], strict=True):
        if np.isfinite(x) and x > 0:
            below, above = (Fraction(float(np.nextafter(root, np.dtype(kind).type(e)))) for e in (-np.inf, np.inf))
            value, middle = Fraction(float(x)), Fraction(float(root))
            assert ((below + middle) / 2) ** 2 <= value <= ((middle + above) / 2) ** 2
        if np.isfinite(x) and x != 0:
            same(np.array([inverse]), np.array([expected("div", np.dtype(kind).type(1), x, kind, "rn")], kind))
    same(found["sqrt"][[0, 1, 3, 16, 17, 18]], np.array([0.0, -0.0, NAN, INF, NAN, NAN], kind))
    same(found["rcp"][[0, 1, 16, 17, 18]], np.array([INF, -INF, 0.0, -0.0, NAN], kind))


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_extremes_prefer_numbers_and_order_zeros(kind: str) -> None:
    a = np.array([1.0, NAN, 2.0, NAN, 0.0, -0.0, -INF], kind)
    b = np.array([2.0, 3.0, NAN, NAN, -0.0, 0.0, INF], kind)
    names = ("min", "max", "min.NaN", "max.NaN")
    found = evaluate({n.replace(".", ""): (f"{n}.{PTX[kind]} %d, %a, %b;", kind) for n in names}, {"a": a, "b": b})
    same(found["min"], np.array([1.0, 3.0, 2.0, NAN, -0.0, -0.0, -INF], kind))
    same(found["max"], np.array([2.0, 3.0, 2.0, NAN, 0.0, 0.0, INF], kind))
    same(found["minNaN"], np.array([1.0, NAN, NAN, NAN, -0.0, -0.0, -INF], kind))
    same(found["maxNaN"], np.array([2.0, NAN, NAN, NAN, 0.0, 0.0, INF], kind))


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_comparisons_ordered_and_unordered(kind: str) -> None:
    a, b = grid([0.0, -0.0, 1.0, -2.0, 5e-324, INF, -INF, NAN], kind)
    signs: dict[str, Callable[[NDArray[Any], NDArray[Any]], Any]] = {
        "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    }  # fmt: skip
    tests = (*signs, *(f"{s}u" for s in signs), "num", "nan")
    found = evaluate({t: (f"setp.{t}.{PTX[kind]} %d, %a, %b;", "b1") for t in tests}, {"a": a, "b": b})
    unordered = np.isnan(a) | np.isnan(b)
    for name, function in signs.items():
        same(found[name], function(a, b) & ~unordered)
        same(found[f"{name}u"], function(a, b) | unordered)
    same(found["nan"], unordered)
    same(found["num"], ~unordered)


def test_comparison_joined_with_a_predicate_and_its_inverse() -> None:
    a = np.array([1, 1, 2, 2, NAN, NAN], "f8")
    p = np.array([0, 1, 0, 1, 0, 1], bool)
    both = "{{ .reg .pred %e; setp.lt.{0}.f64 {1}, %a, 0d3FF8000000000000, {2}; }}"
    found = evaluate(
        {
            "and": (both.format("and", "%d|%e", "%p"), "b1"),
            "inverse": (both.format("or", "%e|%d", "!%p"), "b1"),
            "xor": (both.format("xor", "%d|%e", "%p"), "b1"),
        },
        {"a": a, "p": p},
    )
    less = np.array([1, 1, 0, 0, 0, 0], bool)
    same(found["and"], less & p)
    same(found["inverse"], ~less | ~p)
    same(found["xor"], less ^ p)


def test_classes_signs_and_selection() -> None:
    a = np.array([0.0, -0.0, 1.0, -5e-324, INF, -INF, NAN], "f8")
    tests = ("finite", "infinite", "number", "notanumber", "normal", "subnormal")
    found = evaluate(
        {
            **{t: (f"testp.{t}.f64 %d, %a;", "b1") for t in tests},
            "neg": ("neg.f64 %d, %a;", "f8"),
            "abs": ("abs.f64 %d, %a;", "f8"),
            "sign": ("copysign.f64 %d, %a, 0d4008000000000000;", "f8"),
            "high": ("{ .reg .b32 %low; mov.b64 {%low, %d}, %a; }", "u4"),
            "joined": ("mov.b64 %d, {1, 1072693248};", "f8"),
        },
        {"a": a},
    )
    assert {t: found[t].astype(int).tolist() for t in tests} == {
        "finite": [1, 1, 1, 1, 0, 0, 0],
        "infinite": [0, 0, 0, 0, 1, 1, 0],
        "number": [1, 1, 1, 1, 1, 1, 0],
        "notanumber": [0, 0, 0, 0, 0, 0, 1],
        "normal": [0, 0, 1, 0, 0, 0, 0],
        "subnormal": [0, 0, 0, 1, 0, 0, 0],
    }
    same(found["neg"], np.array([-0.0, 0.0, -1.0, 5e-324, -INF, INF, NAN]))
    same(found["abs"], np.array([0.0, 0.0, 1.0, 5e-324, INF, INF, NAN]))
    same(found["sign"][:6], np.array([3.0, -3.0, 3.0, -3.0, 3.0, -3.0]))
    assert found["high"].tolist() == [int(x) >> 32 for x in a.view("u8")]
    same(found["joined"], np.full(7, 1 + 2.0**-52))


def test_saturated_float32() -> None:
    a = np.array([-1.0, -0.0, 0.25, 1.0, 7.0, INF, NAN], "f4")
    found = evaluate(
        {"add": ("add.rn.sat.f32 %d, %a, 0f00000000;", "f4"), "cvt": ("cvt.sat.f32.f32 %d, %a;", "f4")}, {"a": a}
    )
    for values in found.values():
        np.testing.assert_array_equal(values, np.array([0, 0, 0.25, 1, 1, 1, 0], "f4"))


def test_seed_of_divisions_keeps_the_upper_half() -> None:
    a = np.array([3.0, 1.0, INF, 0.0, 5e-324, -7.5, NAN], "f8")
    found = evaluate({"rcp": ("rcp.approx.ftz.f64 %d, %a;", "f8")}, {"a": a})["rcp"]
    np.testing.assert_allclose(found[[0, 1, 5]], 1 / a[[0, 1, 5]], rtol=2.0**-19)
    same(found[[2, 3, 4, 6]], np.array([0.0, INF, INF, NAN]))
    assert not np.any(found[:6].view("u8") & 0xFFFFFFFF)
