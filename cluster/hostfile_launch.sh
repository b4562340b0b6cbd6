#!/usr/bin/env bash
# Starts a run on the nodes of a hostfile through DeepSpeed's launcher, from any of them; it needs ssh without a password
# and pdsh, and the same checkout and environment at the same path on every node:
#
#   cluster/hostfile_launch.sh cluster/hostfile --deepspeed_config ds_configs/pretrain.json
#
#   MASTER_PORT  a free port on the first node   29500
#   STOA_ENTRY   the script to run               train.py
set -euo pipefail
if (( $# == 0 )) || [[ ! -f "$1" ]]; then
  echo "usage: cluster/hostfile_launch.sh HOSTFILE [arguments of train.py]; see cluster/hostfile.example" >&2
  exit 2
fi
hostfile="$(realpath "$1")"
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# DeepSpeed hands variables that start with NCCL or PYTHON on to the other nodes; others go into ~/.deepspeed_env.
source cluster/env.sh

exec deepspeed --hostfile "$hostfile" --master_port "${MASTER_PORT:-29500}" "${STOA_ENTRY:-train.py}" "$@"
