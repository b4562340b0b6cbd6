"""The ``stoa`` command, also as ``python -m stoa.cli``."""

from stoa.cli import main
from stoa.cli._errors import run_and_leave


def run() -> None:
    run_and_leave(main)


if __name__ == "__main__":
    run()
