"""Pre-train: ``deepspeed train.py --deepspeed_config ds_configs/pretrain.json``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


def moving_shapes(side: int) -> Path:
    """The data used when a recipe names none: Moving Shapes at the model's size."""
    from stoa.synthetic import SynthConfig, build_data_set

    folder = Path("data") / f"moving_shapes_{side}"
    config = SynthConfig(size=side, num_train=512, num_val=64, num_test=64, num_galleries=16)
    build_data_set(config, folder, workers=os.cpu_count() or 1)
    return folder / "manifest.jsonl"


def main() -> int:
    from stoa.config import parse_run
    from stoa.training.run import pretrain

    try:
        config, deepspeed_config = parse_run(None, HERE / "recipes" / "base.yaml")
        pretrain(config, deepspeed_config, default_data=moving_shapes)
    except (ValueError, FloatingPointError, OSError) as error:
        print(f"train.py: {error}", file=sys.stderr, flush=True)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("train.py: interrupted; the same command goes on from the last checkpoint", file=sys.stderr, flush=True)
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    code = main()
    if code:
        # Other ranks may wait in a collective; leave without the interpreter's clean-up waiting for them.
        os._exit(code)
