"""The physics: pure functions over arrays, float64, without I/O or device.

Equation numbers in the docstrings are those of ``docs/physics.md``.
"""
