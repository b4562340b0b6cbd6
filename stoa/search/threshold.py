"""How sure a hit has to be, learned from an index itself.

The cosines of a text and a video have no scale of their own: it differs by model, and the more windows there are, the
higher is the best of them for any text. So the best cosines of texts that nobody would look for there are what a hit is
compared with.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

QUANTILE = 0.95
"""Of the texts below so many find less than the threshold; some may be right by chance."""

_WHO = (
    *("a chef", "two lawyers", "an old fisherman", "a marching band", "a herd of goats", "three astronauts"),
    *("a dentist", "a tailor", "some penguins", "a news anchor", "the goalkeeper", "a potter"),
)
_WHAT = (
    *(
        "peels potatoes",
        "signs a contract",
        "plays the trombone",
        "repairs a bicycle",
        "crosses a bridge",
        "reads a map",
    ),
    *("folds a paper boat", "waters tomatoes"),
)
_WHERE = ("in a cellar", "at an airport", "on a frozen lake", "behind a counter", "under a tent")

#: Of everyday life, so varied that few folders hold more than some of it.
UNRELATED = tuple(" ".join(words) for words in itertools.islice(itertools.product(_WHO, _WHAT, _WHERE), 0, None, 3))


def learned_threshold(texts_Qd: np.ndarray, best_cosine: Callable[[np.ndarray], float]) -> float:
    """The cosine that a hit of an index exceeds if it is one.

    Args:
        texts_Qd: unit vectors of :data:`UNRELATED`.
        best_cosine: the highest of the index for a unit vector (d,).
    """
    return float(np.quantile([best_cosine(text_d) for text_d in texts_Qd], QUANTILE))
