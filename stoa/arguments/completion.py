"""What a shell needs to complete a command line: a script that holds all commands, options and choices, and starts no
Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from jsonargparse import ArgumentParser

from stoa.arguments.messages import alternatives

Shell = Literal["bash", "zsh"]
Options = Mapping[str, list[str]]

_SCRIPT = """\
_stoa() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" command="${{COMP_WORDS[1]}}" words=""
  if [[ "$word" == "=" ]]; then
    word=""
  elif [[ "$before" == "=" ]]; then
    before="${{COMP_WORDS[COMP_CWORD-2]}}"
  fi
  if (( COMP_CWORD > 2 )); then
    case "$command ${{COMP_WORDS[2]}}" in
      {seconds}) command="$command ${{COMP_WORDS[2]}}" ;;
    esac
  fi
  if (( COMP_CWORD == 1 )); then
    words="{firsts} --help --version"
  elif [[ "$word" == -* ]]; then
    case "$command" in
{options}
    esac
  else
    case "$command $before" in
{choices}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _stoa stoa
"""
_FOR_ZSH = """\
(( $+functions[compdef] )) || {{ autoload -U compinit && compinit; }}
autoload -U bashcompinit && bashcompinit
"""


def options_of(parser: ArgumentParser) -> dict[str, list[str]]:
    """The options of a parser, each with the words that it takes where these are known; those of what stands behind the
    command without an option are by the name of ""."""
    found = dict[str, list[str]]()
    for action in parser._actions:
        if not action.option_strings:
            found.setdefault("", _words(action))
        for option in action.option_strings:
            if option.startswith("--") and not option.endswith("+"):
                found[option] = _words(action)
    # One that takes a whole group, as YAML, would stand in the way of completing those of the group.
    return {name: words for name, words in found.items() if not any(other.startswith(f"{name}.") for other in found)}


def completion_script(commands: Mapping[str, Options], shell: Shell) -> str:
    """The script to be sourced. Where it knows no word, names of files are completed.

    Args:
        commands: the options of each command, as :func:`options_of` gives them; a command may be two words.
        shell: that is to complete.
    """
    seconds: dict[str, list[str]] = {}
    for first, _, second in (name.partition(" ") for name in commands):
        seconds.setdefault(first, []).extend([second] if second else [])
    choices = {f"{first} {first}": words for first, words in seconds.items() if words}
    for name, options in commands.items():
        last = name.split()[-1]
        choices |= {f"{name} {option or last}": words for option, words in options.items() if words}
    script = _SCRIPT.format(
        firsts=" ".join(seconds),
        seconds="|".join(f'"{name}"' for name in commands if " " in name),
        options=_cases({name: list(filter(None, options)) for name, options in commands.items()}),
        choices=_cases(choices),
    )
    return script if shell == "bash" else _FOR_ZSH.format() + script


def _words(action: object) -> list[str]:
    typehint = getattr(action, "_typehint", None)
    words = alternatives(typehint) if typehint is not None else []
    known = [word for word in words if " " not in word and word != "text"]
    return known if known != ["null"] else []


def _cases(words: Mapping[str, list[str]]) -> str:
    return "\n".join(f'      "{case}") words="{" ".join(some)}" ;;' for case, some in words.items())
