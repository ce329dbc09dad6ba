"""``calib-gpu selftest``: whether a backend gives what NumPy gives on this machine, and how fast its device is."""
