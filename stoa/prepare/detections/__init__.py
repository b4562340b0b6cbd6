"""Published object detections, and a detector of one's own, as :class:`stoa.detections.Detections` of each clip."""

from stoa.prepare.detections.base import DetectionSource
from stoa.prepare.detections.filtering import FilterConfig, filter_detections
from stoa.prepare.detections.labels import read_class_names, write_class_names
from stoa.prepare.detections.sources import FORMATS, Format, open_detections

__all__ = [
    "FORMATS",
    "DetectionSource",
    "FilterConfig",
    "Format",
    "filter_detections",
    "open_detections",
    "read_class_names",
    "write_class_names",
]
