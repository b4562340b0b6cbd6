"""Detect objects in the clips of a manifest with a torchvision model."""

from __future__ import annotations

from dataclasses import fields

from jsonargparse import ArgumentParser, Namespace

from stoa.prepare.detections.config import DetectorConfig
from stoa.prepare.detections.filtering import FilterConfig

EXAMPLE = "stoa detect data/manifest.jsonl --out data/detected"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("manifest", type=str, help="manifest of the clips")
    parser.add_argument("--out", type=str, required=True, help="folder to write; detections it already holds are kept")
    parser.add_argument("--split", type=str | None, default=None, help="detect on the rows of this split only")
    parser.add_argument(
        "--videos", type=str | None, default=None, help="folder that videos are relative to; null is the manifest's"
    )
    parser.add_class_arguments(DetectorConfig, as_group=False, skip={"filter"})
    parser.add_class_arguments(FilterConfig, "filter")


def run(args: Namespace) -> None:
    from stoa.prepare.detections.run import detect_manifest

    settings = {field.name: args[field.name] for field in fields(DetectorConfig) if field.name != "filter"}
    config = DetectorConfig(**settings, filter=args.filter)
    detect_manifest(config, args.manifest, args.out, split=args.split, videos=args.videos)
