"""What the model is asked, one question after the other, in the thread that it works in."""

from __future__ import annotations

from pathlib import Path

from stoa.api import Clip, Model
from stoa.search.query import Found, Searcher
from stoa.serve.library import Library, Part
from stoa.serve.refusing import Refused, in_a_sentence


class Desk:
    """See the module.

    Args:
        searcher: an index in memory, and its model.
        library: of its videos.
        top_k: hits of a search.
    """

    def __init__(self, searcher: Searcher, library: Library, top_k: int) -> None:
        self.searcher, self._library, self._top_k = searcher, library, top_k

    @property
    def model(self) -> Model:
        return self.searcher.model

    @property
    def speaks(self) -> bool:
        """Whether the model has words for captions."""
        return not self.model.abilities.lacks("plm")

    @property
    def answers(self) -> bool:
        return self.speaks or bool(self.model.abilities.answers)

    @property
    def knows_questions(self) -> bool:
        return self.model.knows_questions

    def search(self, text: str) -> list[Found]:
        self.searcher.renew()
        return self.searcher.by_text(text, top_k=self._top_k)

    def search_picture(self, path: Path) -> list[Found]:
        """
        Raises:
            Refused: it cannot be read.
        """
        self.searcher.renew()
        try:
            return self.searcher.by_image(path, top_k=self._top_k)
        except ValueError as error:
            why = str(error).rpartition(f"{path}: ")[2]
            raise Refused(415, in_a_sentence(ValueError(f"this cannot be read: {why}"), path)) from None

    def caption(self, part: Part) -> str:
        return self.model.caption(self._clip(part))

    def answer(self, part: Part, question: str) -> str:
        return self.model.answer(self._clip(part), question)

    def explain(self, part: Part, caption: str) -> bytes:
        """A PNG file; without a caption it is about the model's own."""
        from stoa.viz.explain import sheet_png

        return sheet_png(self.model.explain(self._clip(part), caption or self.caption(part)))

    def _clip(self, part: Part) -> Clip:
        self._library.require(part.file)
        return self.searcher.clip_of(part.file, part.window.start_seconds, part.window.end_seconds)
