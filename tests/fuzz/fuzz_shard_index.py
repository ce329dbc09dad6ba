"""Fuzz target shard_index, see ``targets.py`` and ``harness.py``."""

from harness import main

if __name__ == "__main__":
    main("shard_index")
