"""Stores on disk: reading L0, writing and publishing L1."""
