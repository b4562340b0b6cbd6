# shellcheck shell=bash
# Settings of every node, sourced by node.sh and hostfile_launch.sh. A value that is already set is kept.

# Warnings only: INFO prints thousands of lines at 128 ranks. Use INFO to see which network was chosen.
export NCCL_DEBUG="${NCCL_DEBUG:-WARN}"
# 4 us x 2^22 = 17 s before an InfiniBand packet is retried; the default of 20 (4 s) is too short while a large fabric
# reroutes, and shows as "unhandled system error" hours into a run.
export NCCL_IB_TIMEOUT="${NCCL_IB_TIMEOUT:-22}"
# Keep the last collectives of every rank and write them out when one times out: they name the rank that hangs. The older
# names are those of the torch that V100s need.
export TORCH_FR_BUFFER_SIZE="${TORCH_FR_BUFFER_SIZE:-2000}"
export TORCH_FR_DUMP_ON_TIMEOUT="${TORCH_FR_DUMP_ON_TIMEOUT:-1}"
export TORCH_FR_DUMP_TEMP_FILE="${TORCH_FR_DUMP_TEMP_FILE:-$PWD/flight_recorder/rank_}"
export TORCH_NCCL_TRACE_BUFFER_SIZE="$TORCH_FR_BUFFER_SIZE"
export TORCH_NCCL_DUMP_ON_TIMEOUT="$TORCH_FR_DUMP_ON_TIMEOUT"
export TORCH_NCCL_DEBUG_INFO_TEMP_FILE="$TORCH_FR_DUMP_TEMP_FILE"
[[ -n "${STOA_DRY_RUN:-}" ]] || mkdir -p "$(dirname "$TORCH_FR_DUMP_TEMP_FILE")"
# The step is on the GPU; more threads than this a process take cores from the loader's workers.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
# Where nodes have several networks, name the fast one: NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0.
