#!/usr/bin/env bash
# Starts a run on the nodes of a hostfile through DeepSpeed's launcher, from any of them; it needs ssh without a password
# and pdsh, and the same checkout and environment at the same path on every node:
#
#   cluster/hostfile_launch.sh cluster/hostfile --deepspeed_config ds_configs/pretrain.json
#
#   MASTER_PORT   a free port on the first node   29500
#   STOA_ENTRY    the script to run               train.py
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
(( ${#hosts[@]} > 0 )) || refuse "$hostfile names no node; expected lines as node01 slots=8"
twice="$(printf '%s\n' "${hosts[@]}" | sort | uniq -d | head -n 1)"
[[ -z "$twice" ]] || refuse "$hostfile names $twice twice; give it one line with all its slots"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# DeepSpeed hands variables that start with NCCL or PYTHON on to the other nodes; others go into ~/.deepspeed_env.
source cluster/env.sh

command=(deepspeed --hostfile "$hostfile" --master_port "${MASTER_PORT:-29500}" "${STOA_ENTRY:-train.py}" "$@")
if [[ -n "${STOA_DRY_RUN:-}" ]]; then
  grep -vE '^[[:space:]]*(#.*)?$' "$hostfile"
  printf ' %q' "${command[@]}"
  echo
  exit 0
fi
# DeepSpeed would wait for a node that it does not reach, or end in a traceback.
needed=(ssh)
(( ${#hosts[@]} == 1 )) || needed+=(pdsh)
for tool in "${needed[@]}"; do
  command -v "$tool" > /dev/null || refuse "$tool, by which DeepSpeed starts nodes, is not installed; or use cluster/node.sh"
done
answers="$(mktemp -d)"
for host in "${hosts[@]}"; do
  timeout 30 ssh -o BatchMode=yes -o ConnectTimeout=10 "$host" true > /dev/null 2> "$answers/$host" || touch "$answers/$host.failed" &
done
wait
for host in "${hosts[@]}"; do
  if [[ -e "$answers/$host.failed" ]]; then
    why="$(tail -n 1 "$answers/$host" | tr -d '\r')"
    rm -r "$answers"
    refuse "$hostfile: ssh does not reach $host without a password (${why:-no reason told}); mend its name or its keys"
  fi
done
rm -r "$answers"
exec "${command[@]}"
