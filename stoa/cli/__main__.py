"""The ``stoa`` command, also as ``python -m stoa.cli``."""

from stoa.cli import main
from stoa.cli._errors import leave


def run() -> None:
    leave(main())


if __name__ == "__main__":
    run()
