"""Fuzz target frames, see ``targets.py`` and ``harness.py``."""

from harness import main

if __name__ == "__main__":
    main("frames")
