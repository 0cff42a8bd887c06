"""`accelerate launch pretrain`, `accelerate launch -m pretrain`, `python -m pretrain`: a hallway to pretrain.train."""

import sys
from pathlib import Path

if not __package__:  # launched as a folder: its files must not shadow top-level modules, and the checkout must be importable
    folder = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != folder]
    sys.path.insert(0, str(folder.parent))
    __package__ = "pretrain"

if __name__ == "__main__":
    from pretrain.train import main

    main()
