"""``python -m calib_gpu.selftest``: the kernels alone, on the GPU, as compute-sanitizer runs them."""

from __future__ import annotations

import sys

from calib_gpu.backend import get_backend
from calib_gpu.errors import CalibError
from calib_gpu.selftest.kernels import compare_kernels


def main() -> int:
    """Compare all kernels; 1 if one differs."""
    backend = get_backend("cupy")
    try:
        checks = list(compare_kernels(backend))
    finally:
        backend.close()
    for check in checks:
        print(f"{check.status:8} {check.name}: {check.detail}")
    return int(any(check.failed for check in checks))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CalibError as error:
        print(f"calib-gpu: error: {error}", file=sys.stderr)
        sys.exit(int(error.exit_code))
