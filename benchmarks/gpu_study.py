"""The study on a GPU, without a network: make study-gpu.

    python benchmarks/gpu_study.py                                    all rows and seeds; again goes on where it was
    python benchmarks/gpu_study.py --plan recipes/study/plan.yaml     of this plan alone

The models are so small that one of them leaves most of a GPU idle, so several train beside each other. Needs torch,
torchvision and SciPy beside this tree; other packages can be brought in build/gpu-site (make gpu-site). Captions are
left out: their scorers want Java.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from gpu.carried import ROOT, packages

PLANS = ("recipes/study/plan.yaml", "recipes/study/plan_stgt.yaml")
LEFT_OUT = "captioning-*"
CORES_OF_A_RUN = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", nargs="+", default=PLANS, help="as stoa ablate takes them, in turn")
    workers = max(1, (os.cpu_count() or 1) // CORES_OF_A_RUN)
    parser.add_argument("--workers", type=int, default=workers, help="cells that are run beside each other")
    args = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        sys.exit("make study-gpu needs a GPU that torch sees; without one make study")
    try:
        with packages():
            subprocess.run([sys.executable, "setup.py", "build_ext", "--inplace"], cwd=ROOT, check=True)
            how = ("--workers", str(args.workers), "--skip", LEFT_OUT)
            for plan in args.plan:
                subprocess.run([sys.executable, "-m", "stoa.cli", "ablate", plan, *how], cwd=ROOT, check=True)
    except (ValueError, subprocess.CalledProcessError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
