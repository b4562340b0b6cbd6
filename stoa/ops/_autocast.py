"""What autocast would do to a tensor of a device."""

import torch


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """The type that autocast casts to there, none where it is off. The meta device has no autocast."""
    if device_type == "meta" or not torch.is_autocast_enabled(device_type):
        return None
    return torch.get_autocast_dtype(device_type)
