"""Moving Shapes: synthetic videos with captions, detections, questions and hard sets, made on the spot.

Nothing here imports torch, so that worker processes start quickly.
"""

from stoa.synthetic.build import SynthConfig, build_data_set
from stoa.synthetic.hard_sets import HARD_KINDS

__all__ = ["HARD_KINDS", "SynthConfig", "build_data_set"]
