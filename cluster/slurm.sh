#!/usr/bin/env bash
# A Ray cluster inside one Slurm allocation, a scoring job on it, and nothing left afterwards.
#
#   sbatch --nodes=4 --cpus-per-task=32 --gpus-per-node=4 cluster/slurm.sh \
#       --task token-classification --model checkpoints/token-classification \
#       --input /scratch/corpus --output /scratch/scored --num-gpus-per-actor 1
#
# Arguments go to `python -m pipelines.score`. Submitted again with the same ones it goes on where it stopped: after
# a time limit, too. The repository and its .venv (`make install`) lie on a file system that all nodes see.
#SBATCH --job-name=bigbird-score
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --requeue
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:?submit this with sbatch at the root of the repository}"
ray=$PWD/.venv/bin/ray
[[ -x $ray ]] || { echo "slurm.sh: $ray is missing: run 'make install' once" >&2; exit 2; }

# The nodes are shared with nobody, their network is: a token of this job's own keeps others out.
umask 077
run_dir=$(mktemp -d "$PWD/.ray-slurm-XXXXXX")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$run_dir/token
od -An -tx1 -N32 /dev/urandom | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH"

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_node=${nodes[0]}
head_address=$(srun --nodes=1 --ntasks=1 --nodelist="$head_node" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 10000))
cpus=${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}
steps=()

finish() {
  for step in "${steps[@]}"; do kill "$step" 2>/dev/null || true; done
  wait || true
  rm -rf "$run_dir"
}
trap finish EXIT

start_node() { # node, further options of `ray start`
  local node=$1
  shift
  # Without --cpus-per-task a step is bound to one core: srun does not take the number from sbatch.
  srun --nodes=1 --ntasks=1 --overlap --cpus-per-task="$cpus" --nodelist="$node" \
    "$ray" start --block --disable-usage-stats --num-cpus="$cpus" "$@" > "$run_dir/$node.log" 2>&1 &
  steps+=($!)
}

start_node "$head_node" --head --node-ip-address="$head_address" --port="$port" --include-dashboard=false
for _ in $(seq 60); do
  RAY_ADDRESS=$head_address:$port "$ray" status > /dev/null 2>&1 && break
  sleep 1
done
for node in "${nodes[@]:1}"; do
  start_node "$node" --address="$head_address:$port"
done

# The driver waits until all nodes are there, or says which log to read.
for _ in $(seq 120); do
  count=$(RAY_ADDRESS=$head_address:$port "$ray" status 2> /dev/null | grep -c '^ 1 node_' || true)
  [[ $count -ge ${#nodes[@]} ]] && break
  sleep 1
done
[[ ${count:-0} -ge ${#nodes[@]} ]] || { echo "slurm.sh: ${count:-0} of ${#nodes[@]} nodes joined" >&2; cat "$run_dir"/*.log >&2; exit 1; }

srun --nodes=1 --ntasks=1 --overlap --nodelist="$head_node" \
  env RAY_ADDRESS="$head_address:$port" "$PWD/.venv/bin/python" -m pipelines.score "$@"
