"""One HTML page about a run, or two side by side: what is in their folders, readable without a network."""
