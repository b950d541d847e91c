"""`python -m rawquic` is the command `rawquic`."""

import sys

from rawquic.cli import main

if __name__ == "__main__":
    sys.exit(main())
