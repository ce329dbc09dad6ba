"""``python -m calib_gpu`` is ``calib-gpu``."""

from calib_gpu.cli import main

main()
