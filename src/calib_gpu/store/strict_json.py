"""JSON documents of others: read in strict form, and refused before they are parsed if they would take much memory or time."""

from __future__ import annotations

import json
import math
from typing import Any, Final

from calib_gpu.store.guard import MAX_DOCUMENT_BYTES, shown

MAX_DEPTH: Final = 32
MAX_VALUES: Final = 500_000
"""Most commas and opening brackets of a document. A value of one byte takes up to a hundred in memory."""


def parse_json(raw: bytes) -> dict[str, Any]:
    """A JSON object in strict form: UTF-8, bounded size and depth, no NaN or Infinity, no duplicate keys, no lone surrogates.

    Raises ``ValueError`` that says what is wrong and where in the document.
    """
    if len(raw) > MAX_DOCUMENT_BYTES:
        raise ValueError(f"document too large: {len(raw)} bytes, at most {MAX_DOCUMENT_BYTES}")
    n_open = raw.count(b"[") + raw.count(b"{")
    if n_open + raw.count(b",") > MAX_VALUES:
        raise ValueError(f"document of more than {MAX_VALUES} values")
    suspect = b"\\u" in raw or n_open > MAX_DEPTH
    try:
        text = raw.decode("utf-8")
        try:
            data = _DECODER.decode(text)
        except _NotFinite:
            data, suspect = json.loads(text), True
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise ValueError(f"not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    if suspect:
        _check_values(data, [])
    return data


class _NotFinite(Exception):
    """A number that is NaN, infinite, or beyond a float."""


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _NotFinite
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {shown(twice)!r} twice in an object")
    return found


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_float=_finite, parse_constant=_finite)
"""Made once: making one takes as long as a small document."""


def _check_values(node: dict[str, Any] | list[Any], path: list[Any]) -> None:
    """Refuse what is too deep, not finite, or no text; ``path`` are the keys that lead to the node."""
    if len(path) >= MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        for text in (key, value):
            if isinstance(text, str) and not text.isascii() and _has_surrogate(text):
                raise ValueError(f"{_place(path, key)}: half a surrogate pair in a text")
        if isinstance(value, dict | list):
            path.append(key)
            _check_values(value, path)
            path.pop()
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{_place(path, key)}: {value} is not a number of JSON; write null")


def _place(path: list[Any], key: Any) -> str:
    return ".".join(shown(str(part)) for part in (*path, key))


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
