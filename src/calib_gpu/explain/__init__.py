"""One sample's way from counts to T_A*, so that it can be redone by hand: the logic behind ``calib-gpu explain``."""

from calib_gpu.explain.sample import Explanation, Place, explain
from calib_gpu.explain.steps import Step
from calib_gpu.explain.tables import tables

__all__ = ["Explanation", "Place", "Step", "explain", "tables"]
