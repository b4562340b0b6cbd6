"""Search in a folder of videos: an index of windows, and questions to it."""
