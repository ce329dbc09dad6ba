"""Tests with other people's programs: they need the extra `interop` and, for the map, cygrid.

``scripts/interop`` makes an environment that has them and sets ``CALIB_GPU_INTEROP``: then what is not here is an error.
Without it a test skips and says which program was not tried.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def program() -> Callable[[str], Any]:
    """Import a module of another program, or skip with its name; with ``CALIB_GPU_INTEROP`` naming it, fail."""
    wanted = os.environ.get("CALIB_GPU_INTEROP", "").split()

    def load(name: str) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what it says of itself while it is imported is not ours
                return importlib.import_module(name)
        except (ImportError, ValueError) as error:  # ValueError: an extension built for another NumPy
            top = name.partition(".")[0]
            if top in wanted:
                pytest.fail(f"{top} should be here: {error}")
            pytest.skip(f"not tried with {top}: {error} (scripts/interop installs it)")

    return load


@pytest.fixture(scope="session")
def l1(tmp_path_factory: pytest.TempPathFactory, program: Callable[[str], Any]) -> Path:
    """A store with padding, holes and offsets."""
    from export_store import make

    return make(tmp_path_factory.mktemp("interop"))
