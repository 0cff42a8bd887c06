"""`python -m hlip`: the same as `hlip`."""

from hlip.cli import main

if __name__ == "__main__":
    main()
