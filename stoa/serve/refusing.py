"""What is not done, in a sentence for whoever asked."""

from __future__ import annotations


class Refused(Exception):
    """A request that is not answered with what it asks for.

    Args:
        status: of HTTP.
        sentence: that the page shows; it holds no path of this machine.
        headers: of the response.
    """

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, headers or {}


def in_a_sentence(error: BaseException, *private: object) -> str:
    """The message of an error in one line, as a sentence, without any of these paths."""
    said = " ".join(str(error).split())
    said = said[:1].upper() + said[1:]  # before a name of a file may come first
    for path in private:
        said = said.replace(f"{path}/", "").replace(str(path), "the file")
    said = said[:300]
    return said if said.endswith((".", "?", "!")) else f"{said}."
