"""A page on which an index is searched, for one person at one machine."""
