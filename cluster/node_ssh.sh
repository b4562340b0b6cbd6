#!/usr/bin/env bash
# What pdsh runs for each node of hostfile_launch.sh: HOST COMMAND. The processes of a node get a SIGTERM, on which they
# save, when the launcher or pdsh is gone or another node has failed; DeepSpeed would leave them running.
set -uo pipefail
host="$1"
shift
[[ "$1" != pkill* ]] || exit 0  # DeepSpeed's after Ctrl-C, which would end other runs on the node too
launcher="$(ps -o ppid= -p "$PPID" | tr -d ' ')"

# On the node: the input of ssh ends when it is closed here, and with the connection.
# shellcheck disable=SC2016  # it is the node's shell that expands it
guard='exec 3<&0
{ cat <&3; launch=$(pgrep -P $$ -f "^[^ ]*python[^ ]* -u -m deepspeed.launcher.launch"); kill -TERM ${launch:-$$}; } > /dev/null 2>&1 &
exec 3<&- < /dev/null
'
relay() {  # what is said after pdsh's end is lost, not an error of those who say it
  while IFS= read -r line; do printf '%s\n' "$line"; done 2> /dev/null
}
asked=''
trap 'asked=1' TERM INT
exec 4> >(
  trap '' TERM INT PIPE
  ssh -o BatchMode=yes -o ServerAliveInterval=10 "$host" "$guard$*" 2>&1 4>&- | relay
  exit "${PIPESTATUS[0]}"
)
connection=$!
while [[ -z "$asked" ]] && kill -0 "$launcher" && kill -0 "$PPID" && kill -0 "$connection"; do sleep 1; done 2> /dev/null
exec 4>&-
wait "$connection"
status=$?
while kill -0 "$connection" 2> /dev/null; do
  wait "$connection"  # a signal has ended the one before
  status=$?
done
if (( status )); then
  pkill -TERM -P "$PPID" -f "${BASH_SOURCE[0]}"
fi
exit "$status"
