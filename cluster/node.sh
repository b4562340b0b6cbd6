#!/usr/bin/env bash
# Starts the training processes of this node; the arguments go to train.py. It runs once on every node, under srun
# (slurm.sbatch), Kubernetes (kubernetes/), a job system of your own, or by hand:
#
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=node0 cluster/node.sh --deepspeed_config ds_configs/pretrain.json    # on node0
#   NNODES=2 NODE_RANK=1 MASTER_ADDR=node0 cluster/node.sh --deepspeed_config ds_configs/pretrain.json    # on node1
#
#   NNODES          nodes of the run                                    PET_NNODES, else 1
#   NODE_RANK       this node, from 0             PET_NODE_RANK, SLURM_NODEID or JOB_COMPLETION_INDEX, of 1 node 0
#   MASTER_ADDR     a name or address of node 0 that all can reach      PET_MASTER_ADDR; of 1 node 127.0.0.1
#   MASTER_PORT     a free port there                                   PET_MASTER_PORT, else 29500
#   NPROC_PER_NODE  processes, one for each GPU                         PET_NPROC_PER_NODE, else the number of GPUs
#   STOA_START_MINUTES  how long all wait for each other                30
#   STOA_ENTRY      the script to run                                   train.py
#   STOA_DRY_RUN    1 prints the command and runs nothing
#
# PET_* is what Kubeflow's trainer sets, and JOB_COMPLETION_INDEX an indexed Job of Kubernetes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source cluster/env.sh

refuse() {
  echo "cluster/node.sh: $1" >&2
  exit 2
}

nnodes="${NNODES:-${PET_NNODES:-1}}"
rank="${NODE_RANK:-${PET_NODE_RANK:-${SLURM_NODEID:-${JOB_COMPLETION_INDEX:-}}}}"
address="${MASTER_ADDR:-${PET_MASTER_ADDR:-}}"
[[ "$nnodes" =~ ^[1-9][0-9]*$ ]] || refuse "NNODES is '$nnodes'; expected a number of nodes"
if (( nnodes > 1 )); then
  [[ -n "$address" ]] || refuse "NNODES is $nnodes and MASTER_ADDR is not set; set it to a name of node 0"
  [[ -n "$rank" ]] || refuse "NNODES is $nnodes and NODE_RANK is not set; set it to the number of this node, from 0"
fi
rank="${rank:-0}"
if [[ ! "$rank" =~ ^[0-9]+$ ]] || (( rank >= nnodes )); then
  refuse "NODE_RANK is '$rank'; expected 0 to $((nnodes - 1))"
fi

command=(
  python cluster/torchrun.py
  --nnodes "$nnodes"
  --node-rank "$rank"
  --nproc-per-node "${NPROC_PER_NODE:-${PET_NPROC_PER_NODE:-auto}}"
  --master-addr "${address:-127.0.0.1}"
  --master-port "${MASTER_PORT:-${PET_MASTER_PORT:-29500}}"
  -- "${STOA_ENTRY:-train.py}" "$@"  # after -- nothing is an option of torchrun's own
)
if [[ -n "${STOA_DRY_RUN:-}" ]]; then
  echo "on ${HOSTNAME:-this node}, in $PWD:"
  printf ' %q' "${command[@]}"
  echo
  exit 0
fi
# Slurm sends SIGUSR2 to all processes ahead of a time limit; the trainings save on it, and torchrun has to live on.
trap '' USR2
# exec: a signal from the job system reaches torchrun, which ends its processes; its end is that of the first that fails.
exec "${command[@]}"
