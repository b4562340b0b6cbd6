#!/usr/bin/env bash
# Starts a run on the nodes of a hostfile through DeepSpeed's launcher, from any of them; it needs ssh without a password
# and pdsh, and the same checkout and environment at the same path on every node:
#
#   cluster/hostfile_launch.sh cluster/hostfile --deepspeed_config ds_configs/pretrain.json
#
#   MASTER_ADDR   an address of the first node that all can reach   the first that `hostname -I` says there
#   MASTER_PORT   a free port there                                 29500
#   STOA_ENTRY    the script to run                                 train.py
#   STOA_DRY_RUN  1 prints the command and runs nothing
set -euo pipefail

refuse() {
  echo "cluster/hostfile_launch.sh: $1" >&2
  exit 2
}

if (( $# == 0 )) || [[ ! -f "$1" ]]; then
  echo "usage: cluster/hostfile_launch.sh HOSTFILE [arguments of train.py]; see cluster/hostfile.example" >&2
  exit 2
fi
hostfile="$(realpath "$1")"
shift
if wrong="$(grep -nvE '^[[:space:]]*(#.*)?$|^[^[:space:]#]+[[:space:]]+slots=[1-9][0-9]*[[:space:]]*(#.*)?$' "$hostfile")"; then
  refuse "$hostfile, line ${wrong%%$'\n'*}: expected NAME slots=NUMBER, as node01 slots=8"
fi
mapfile -t hosts < <(awk '!/^[[:space:]]*(#|$)/ {print $1}' "$hostfile")
(( ${#hosts[@]} )) || refuse "$hostfile names no host; expected lines NAME slots=NUMBER, as node01 slots=8"
twice="$(printf '%s\n' "${hosts[@]}" | sort | uniq -d | head -n 1)"
[[ -z "$twice" ]] || refuse "$hostfile names $twice twice; give each host one line with all its slots"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source cluster/env.sh

command=(
  deepspeed
  --hostfile "$hostfile"
  --launcher_args "-R exec $(printf %q "$PWD/cluster/node_ssh.sh") %h"  # pdsh's own ssh leaves processes behind
  --master_port "${MASTER_PORT:-29500}"
  ${MASTER_ADDR:+--master_addr "$MASTER_ADDR"}
  "${STOA_ENTRY:-train.py}" "$@"
)
if [[ -n "${STOA_DRY_RUN:-}" ]]; then
  grep -vE '^[[:space:]]*(#.*)?$' "$hostfile"
  printf ' %q' "${command[@]}"
  echo
  exit 0
fi

for program in ssh deepspeed $( (( ${#hosts[@]} == 1 )) || echo pdsh); do
  command -v "$program" > /dev/null || refuse "$program is not installed here"
done
# DeepSpeed asks the first host alone, without a limit of time; pdsh trains on with those that answer.
python="$(command -v python)"
answers="$(mktemp -d)"
trap 'rm -rf "$answers"' EXIT
for number in "${!hosts[@]}"; do
  host="${hosts[number]}"
  {
    there="test -d '$PWD' || { echo no folder $PWD; exit 1; }; test -x '$python' || { echo no program $python; exit 1; }"
    if ! said="$(timeout 30 ssh -n -o BatchMode=yes -o ConnectTimeout=10 "$host" "$there" 2>&1)"; then
      said="$(tail -n 1 <<< "$said" | tr -d '\r')"
      echo "$host: ${said:-no answer in 30 s}" > "$answers/$number.failed"
    fi
  } &
done
wait
if failed="$(cat "$answers"/*.failed 2> /dev/null)"; then
  refuse "${failed//$'\n'/; }; every host of $hostfile has to answer ssh without a password, with the same checkout and environment"
fi

# ssh hands on no variables. DeepSpeed exports what this file says, and reads it once more: it is gone when this ends.
exports="$answers/exports"
while IFS= read -r name; do
  value="${!name}"
  [[ "$value" != *[\"\$\`\\%$'\n']* ]] || refuse "$name has a character that the shell of another node would change: $value"
  printf '%s=%s\n' "$name" "$value"
done < <(compgen -e | grep -E '^(PATH|LD_LIBRARY_PATH|(NCCL|GLOO|TORCH|OMP|MKL|HF|STOA)_.*)$') > "$exports"
for own in ~/.deepspeed_env .deepspeed_env; do
  [[ ! -f "$own" ]] || cat "$own" >> "$exports"
done
exec 9< "$exports"
rm -r "$answers"
DS_ENV_FILE=/proc/self/fd/9 exec "${command[@]}"
