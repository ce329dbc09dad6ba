"""``python -m calib_gpu`` is ``calib-gpu``."""

from calib_gpu.cli import main

if __name__ == "__main__":
    main()
