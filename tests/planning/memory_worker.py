"""Run by test_planned_memory.py: planned and measured bytes of a step of a narrow model, as JSON."""

import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent / "training"), str(Path(__file__).parent.parent.parent / "benchmarks")]

from operations_worker import DEEP_AND_NARROW  # noqa: E402
from plan_memory import case_config, deepspeed_config, measured, planned  # noqa: E402

from stoa.models.config import PRESETS, BackboneConfig  # noqa: E402


def main(out: str, case: str) -> None:
    asked = json.loads(case)
    PRESETS["narrow"] = DEEP_AND_NARROW
    config, deepspeed = case_config(asked), deepspeed_config(asked)
    config = replace(config, model=replace(config.model, backbone=BackboneConfig(name="narrow")))
    deepspeed["zero_optimization"]["reduce_bucket_size"] = 1_000_000
    found = {"planned": planned(config, deepspeed, asked["world"]), "measured": measured(config, deepspeed)}
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
