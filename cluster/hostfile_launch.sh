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
if (( $# == 0 )) || [[ ! -f "$1" ]]; then
  echo "usage: cluster/hostfile_launch.sh HOSTFILE [arguments of train.py]; see cluster/hostfile.example" >&2
  exit 2
fi
hostfile="$(realpath "$1")"
shift
if wrong="$(grep -nvE '^[[:space:]]*(#.*)?$|^[^[:space:]#]+[[:space:]]+slots=[1-9][0-9]*[[:space:]]*(#.*)?$' "$hostfile")"; then
  echo "cluster/hostfile_launch.sh: $hostfile, line ${wrong%%$'\n'*}: expected NAME slots=NUMBER, as node01 slots=8" >&2
  exit 2
fi
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
exec "${command[@]}"
