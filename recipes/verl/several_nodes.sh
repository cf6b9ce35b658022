#!/usr/bin/env bash
# Either run on several nodes: start Ray, then run this once, on the head node, with RECIPE=grpo or RECIPE=ppo.
#   head node:    ray start --head --port=6379
#   other nodes:  ray start --address=HEAD:6379
# Every node needs the same environment (pip install -e '.[verl,embed]'), model and data under the same paths.
set -euo pipefail
RECIPE=${RECIPE:-grpo}
export NODES=${NODES:-2}
export GPUS=${GPUS:-8}              # of each node

# address=auto joins the running cluster.
exec bash "$(dirname "$0")/${RECIPE}_one_node.sh" \
  +ray_kwargs.ray_init.address=auto \
  ray_kwargs.ray_init.num_cpus=null \
  trainer.nnodes="$NODES" \
  "$@"
