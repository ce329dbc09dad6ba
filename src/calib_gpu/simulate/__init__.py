"""Simulated observations: L0 stores made with the counts equation from a known truth, which is written beside them.

The forward model is eq. (1) of the physics specification: C = Z + G [T_R + g_s P_s + g_i P_i], with the radiometer
noise of each sample. Nothing of the calibration is used to make the counts, so that a calibrated store can be held
against :func:`expected_spectra`.

>>> truth = simulate(Path("night.zarr"), SimulationConfig("tiny"))          # doctest: +SKIP
>>> expected_spectra(read_truth("night.truth.zarr"), 25650, on=0, r=0, a=0)  # doctest: +SKIP
"""

from calib_gpu.simulate.config import FIRST_SCAN, PRESETS, SimulationConfig, closure, realistic
from calib_gpu.simulate.forward import simulate
from calib_gpu.simulate.truth import ScanTruth, Truth, expected_spectra, read_truth, truth_path

__all__ = [
    "FIRST_SCAN",
    "PRESETS",
    "ScanTruth",
    "SimulationConfig",
    "Truth",
    "closure",
    "expected_spectra",
    "read_truth",
    "realistic",
    "simulate",
    "truth_path",
]
