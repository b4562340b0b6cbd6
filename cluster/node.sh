#!/usr/bin/env bash
# Starts the training processes of this node; the arguments go to train.py. It runs once on every node, under srun
# (slurm.sbatch), a job system of your own, or by hand:
#
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=node0 cluster/node.sh --deepspeed_config ds_configs/pretrain.json    # on node0
#   NNODES=2 NODE_RANK=1 MASTER_ADDR=node0 cluster/node.sh --deepspeed_config ds_configs/pretrain.json    # on node1
#
#   NNODES          nodes of the run                                    1
#   NODE_RANK       this node, from 0                                   SLURM_NODEID, else 0
#   MASTER_ADDR     a name or address of node 0 that all can reach      127.0.0.1
#   MASTER_PORT     a free port there                                   29500
#   NPROC_PER_NODE  processes, one for each GPU                         the number of GPUs
#   STOA_ENTRY      the script to run                                   train.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source cluster/env.sh

nnodes="${NNODES:-1}"
if (( nnodes > 1 )) && [[ -z "${MASTER_ADDR:-}" ]]; then
  echo "cluster/node.sh: NNODES is $nnodes and MASTER_ADDR is not set; set it to a name of node 0" >&2
  exit 2
fi

# exec: a signal from the job system reaches torchrun, which ends its processes. After -- nothing is an option of its own.
exec torchrun \
  --nnodes "$nnodes" \
  --node-rank "${NODE_RANK:-${SLURM_NODEID:-0}}" \
  --nproc-per-node "${NPROC_PER_NODE:-auto}" \
  --master-addr "${MASTER_ADDR:-127.0.0.1}" \
  --master-port "${MASTER_PORT:-29500}" \
  -- "${STOA_ENTRY:-train.py}" "$@"
