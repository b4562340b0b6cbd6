"""Lets ``python -m stoa.cli`` run the ``stoa`` command."""

from stoa.cli import main
from stoa.cli._errors import leave

if __name__ == "__main__":
    leave(main())
