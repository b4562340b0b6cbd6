"""Pre-train: ``deepspeed train.py --deepspeed_config ds_configs/pretrain.json``."""

from __future__ import annotations

import os
from pathlib import Path

NAME = "train.py"
HERE = Path(__file__).resolve().parent
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


def moving_shapes(side: int, global_batch: int) -> Path:
    """The data used when a recipe names none: Moving Shapes at the model's size, two global batches at least."""
    from stoa.synthetic import SynthConfig, build_data_set

    clips = max(512, 2 * global_batch)
    folder = Path("data") / f"moving_shapes_{side}px_{clips}"
    config = SynthConfig(size=side, num_train=clips, num_val=64, num_test=64, num_galleries=16)
    build_data_set(config, folder, workers=len(os.sched_getaffinity(0)))
    return folder / "manifest.jsonl"


def main() -> int:
    from stoa.cli._errors import complain, complain_once
    from stoa.config import parse_run
    from stoa.run import pretrain

    try:
        config, deepspeed_config = parse_run(None, HERE / "recipes" / "stoa.yaml")
    except ValueError as error:
        complain_once(NAME, str(error))
        return EXIT_ERROR
    try:
        pretrain(config, deepspeed_config, default_data=moving_shapes)
    except (ValueError, FloatingPointError, OSError) as error:
        complain(NAME, str(error))
        return EXIT_ERROR
    except KeyboardInterrupt as error:
        complain(NAME, str(error) or "interrupted")
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    from stoa.cli._errors import run_and_leave

    run_and_leave(main)
