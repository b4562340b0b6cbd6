"""Lets ``python -m stoa.cli`` run the ``stoa`` command."""

import sys

from stoa.cli import main

if __name__ == "__main__":
    sys.exit(main())
