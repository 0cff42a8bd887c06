"""`accelerate launch finetune`, `accelerate launch -m finetune`, `python -m finetune`: a hallway to finetune.train."""

import sys
from pathlib import Path

if not __package__:  # launched as a folder: its files must not shadow top-level modules, and the checkout must be importable
    folder = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != folder]
    sys.path.insert(0, str(folder.parent))
    __package__ = "finetune"

if __name__ == "__main__":
    from finetune.train import main

    main()
