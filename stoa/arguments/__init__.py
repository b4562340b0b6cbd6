"""The command line of every command: one order, one reading of recipes, one way to say what is wrong."""

from stoa.arguments.parse import Command, parse

__all__ = ["Command", "parse"]
