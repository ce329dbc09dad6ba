"""Fuzz target settings, see ``targets.py`` and ``harness.py``."""

from harness import main

if __name__ == "__main__":
    main("settings")
