"""How fast the engine is, beside the floor, the scripts that a user would write, and tensorstore; see docs/performance.md."""

from calib_gpu.bench.cases import CASES, Options, run_bench
from calib_gpu.bench.targets import TARGETS

__all__ = ["CASES", "TARGETS", "Options", "run_bench"]
