"""Video-language pre-training with object trajectories, action tokens and spatio-temporal graphs.

Importing the package is cheap and loads no torch; `stoa.ops`, `stoa.models` and the others do.
"""

__version__ = "0.1.0"
