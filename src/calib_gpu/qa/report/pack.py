"""Numbers for the page: rounded JSON, and arrays as base64 of small integers that the page turns back."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

MAX_TEXT: Final = 300


def text(value: Any) -> str:
    """Text from data, for people: control and invisible characters (bidirectional overrides among them) become U+FFFD."""
    clean = "".join(c if c.isprintable() else "\ufffd" for c in str(value))
    return clean if len(clean) <= MAX_TEXT else clean[: MAX_TEXT - 1] + "…"


def number(value: Any, digits: int = 5) -> float | None:
    """A float rounded to significant digits; None for what is not a finite number."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        return None
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None


def numbers(values: ArrayLike | None, digits: int = 5) -> list[float | None] | None:
    """A flat list of rounded numbers; None stays None."""
    return None if values is None else [number(v, digits) for v in np.ravel(np.asarray(values, dtype=np.float64))]


def pack(values: ArrayLike, bits: int = 16) -> dict[str, Any]:
    """An array as unsigned integers of ``bits`` (8 or 16, little endian) in base64.

    Code 0 is NaN; code k is ``lo + (k - 1) / (2**bits - 2) * (hi - lo)``. ``n`` is the shape.
    """
    v = np.asarray(values, dtype=np.float64)
    good = np.isfinite(v)
    lo, hi = (float(v[good].min()), float(v[good].max())) if good.any() else (0.0, 0.0)
    top = 2**bits - 2
    scale = top / (hi - lo) if hi > lo else 0.0
    codes = np.zeros(v.shape, "<u2" if bits == 16 else "u1")
    codes[good] = 1 + np.rint((v[good] - lo) * scale).astype(codes.dtype)
    return {"n": list(v.shape), "b": bits, "lo": lo, "hi": hi, "d": base64.b64encode(codes.tobytes()).decode()}


def clipped(values: ArrayLike, percent: float) -> Any:
    """Values clipped to their inner percentiles, for images whose range one sample must not spoil."""
    v = np.asarray(values, dtype=np.float64)
    if not np.isfinite(v).any():
        return v
    low, high = np.nanpercentile(v, [percent, 100.0 - percent])
    return np.clip(v, low, high)


def script_json(document: Any) -> str:
    """JSON that can stand inside a ``<script>`` element: nothing in it can end the element or start a comment."""
    raw = json.dumps(document, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        raw = raw.replace(character, f"\\u{ord(character):04x}")
    return raw
