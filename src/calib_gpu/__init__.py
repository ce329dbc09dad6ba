"""calib-gpu."""
from calib_gpu._version import __version__

