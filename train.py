"""Pre-train: ``deepspeed train.py --deepspeed_config ds_configs/pretrain.json``. It is ``stoa train``."""

from __future__ import annotations

import sys

from stoa.cli import main
from stoa.cli._errors import run_and_leave


def train() -> int:
    return main(["train", *sys.argv[1:]], program="train.py")


if __name__ == "__main__":
    run_and_leave(train)
