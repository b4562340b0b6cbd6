"""What a model makes of a clip and a caption, as picture, page and film. Shown are trajectories and action tokens with
their words, and where they look, the edges of the graph, and whether the caption fits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from stoa.arguments import Command
from stoa.arguments.needs import EXPLANATION
from stoa.cli._model import add_model
from stoa.files import require_writable
from stoa.names import file_name

if TYPE_CHECKING:
    from stoa.tasks.inputs import Clip
    from stoa.tasks.tagging import TaggedCaption

COMMAND = Command(EXPLANATION)
EXAMPLE = "stoa explain clip.mp4 'a red square moves up' --model runs/demo"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("video", type=str | None, nargs="?", default=None, help="file to explain, or --manifest")
    parser.add_argument("caption", type=str | None, nargs="?", default=None, help="what is said of it, in quotes")
    add_model(parser)
    parser.add_argument("--detections", type=str | None, default=None, help=".npz of the video's boxes")
    parser.add_argument(
        "--spacy",
        type=str | None,
        default=None,
        help="pipeline that tags the caption; null is what is known of its words, else en_core_web_sm if installed",
    )
    parser.add_argument("--manifest", type=str | None, default=None, help="manifest that holds clip and caption")
    parser.add_argument("--clip", type=str | None, default=None, help="id of the clip; default: the first of the split")
    parser.add_argument("--split", type=str, default="test", help="rows to take the first clip from")
    parser.add_argument(
        "--labels", type=str | None, default=None, help="file of class names; default: labels.json by the manifest"
    )
    parser.add_argument(
        "--out", type=str | None, default=None, help="folder to write; default: beside the video, or in the run"
    )


def run(args: Namespace) -> None:
    _require_one_clip(args)
    from stoa.prepare.detections import read_class_names
    from stoa.tasks.explain import explain
    from stoa.tasks.opened import open_model
    from stoa.viz.explain import require_replaceable, save_explanation

    name, clip, tagged = _of_video(args) if args.manifest is None else _of_manifest(args)
    beside = Path(args.manifest).parent / "labels.json" if args.manifest else None
    labels = args.labels or (beside if beside is not None and beside.is_file() else None)
    class_names = [] if labels is None else read_class_names(labels)
    trained, abilities, _, folder = open_model(args.model)
    at = folder if args.manifest else Path(args.video).parent
    out = Path(args.out) if args.out else at / f"explain-{file_name(name if args.manifest else Path(name).stem)}"
    if args.out is None and out.is_symlink():
        raise ValueError(f"{out} is a link; name a folder with --out")
    require_replaceable(out, "--out")
    require_writable(out, "--out")
    found = explain(trained, abilities, clip, tagged, name=name, class_names=class_names)
    for line in (f"nouns and verbs of the caption: {found.tagged_by}", *found.notes):
        print(line, flush=True)
    save_explanation(found, out, written=lambda path: print(f"written to {path}", flush=True))


def _require_one_clip(args: Namespace) -> None:
    if args.manifest is not None and args.video is not None:
        raise ValueError(f"{args.video} and --manifest {args.manifest} are both given; leave one out")
    if args.manifest is None and args.video is None:
        raise ValueError("nothing to explain; give a video and its caption in quotes, or --manifest")
    if args.video is not None and args.caption is None:
        raise ValueError(f"no caption is given for {args.video}; put it in quotes right after the video")
    if args.out is not None and Path(args.out).suffix in (".png", ".html", ".mp4"):
        raise ValueError(f"--out is {args.out}; expected a folder, which gets a .png, an .html and an .mp4")


def _of_video(args: Namespace) -> tuple[str, Clip, TaggedCaption]:
    from stoa.tasks.inputs import Clip
    from stoa.tasks.tagging import tag_caption

    clip = Clip(video=args.video, detections=args.detections)
    return Path(args.video).name, clip, tag_caption(args.caption, args.spacy)


def _of_manifest(args: Namespace) -> tuple[str, Clip, TaggedCaption]:
    from stoa.manifest import read_manifest
    from stoa.tasks.explain import clip_of_row
    from stoa.tasks.tagging import TaggedCaption

    manifest = Path(args.manifest)
    rows = read_manifest(manifest, split=None if args.clip else args.split)
    row = next((row for row in rows if args.clip in (None, row.id)), None)
    if row is None:
        raise ValueError(f"--clip {args.clip!r} is not in {manifest}; its clips are {rows[0].id!r} to {rows[-1].id!r}")
    return row.id, clip_of_row(row, manifest.parent), TaggedCaption(row.captions[0], "from the manifest")
