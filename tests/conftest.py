"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

VECTORS = {v["id"]: v for v in json.loads((Path(__file__).parent / "vectors" / "vectors.json").read_text())["vectors"]}


@pytest.fixture(scope="session")
def vectors() -> dict[str, Any]:
    """The specification's test vectors, by id; computed with 50 digits, independent of this code."""
    return VECTORS
