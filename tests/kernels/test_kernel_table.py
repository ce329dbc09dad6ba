"""The engine's kernels for all architectures: no spills, nothing contracted, 16-byte accesses; docs/kernels.md lists them all."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import pytest

from calib_gpu.backend.kernels import specialisations
from calib_gpu.testing.nvrtc import libraries
from calib_gpu.testing.resources import Resources, Widths

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(
        importlib.util.find_spec("cupy") is None or not libraries(),
        reason="needs CuPy and NVRTC (extra kernels), which are not installed",
    ),
]
PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"


def test_the_page_lists_every_kernel() -> None:
    listed = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert listed == [spec.name for spec in specialisations()]


def test_spills_local_memory_and_contractions_are_complaints() -> None:
    from calib_gpu.testing.kernel_table import ARCHS, Row, as_markdown, complaints

    good = Resources(registers=40, spill_stores=0, spill_loads=0, stack=0, shared=0, constant=0)
    row = Row("k<int32>", dict.fromkeys(ARCHS, good), Widths({4: 1, 16: 2}, {8: 1}), frozenset({"rcp.approx.ftz.f64"}))
    assert complaints([row]) == []
    assert "| `k<int32>` | 40 | 40 | 40 | 40 | 40 | 40 | 40 | 0 | 0 | 0 | 16 (2), 4 (1) | 8 (1) |" in as_markdown([row])
    spilled = replace(row, resources={**row.resources, "90": replace(good, spill_stores=8, spill_loads=16)})
    assert complaints([spilled]) == ["k<int32>: 24 bytes of spills for sm_90"]
    stacked = replace(row, resources={**row.resources, "75": replace(good, stack=64)})
    assert complaints([stacked]) == ["k<int32>: 64 bytes of local memory for sm_75"]
    contracted = replace(row, approximate=frozenset({"mul.f64 (may be contracted to fma)"}))
    assert complaints([contracted]) == ["k<int32>: mul.f64 (may be contracted to fma)"]


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["70", "75", "80", "86", "89", "90", "100", "120"])
def test_no_kernel_spills_or_may_be_contracted(arch: str) -> None:
    from calib_gpu.testing.kernel_table import complaints, rows

    if not any(arch in library.archs for library in libraries()):
        pytest.skip(f"sm_{arch} needs the NVRTC of CUDA 12 (nvidia-cuda-nvrtc-cu12), which is not installed")
    found = list(rows((arch,)))
    assert complaints(found) == []
    for row in found:
        if row.name.startswith("calibrate_tile") and "16" not in row.name:
            assert row.widths.loads.get(16)
            assert row.widths.stores.get(16)
