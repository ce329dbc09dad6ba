"""The six stages of a scan: load, resolve, atmosphere, prepare, calibrate, write."""
