#!/usr/bin/env bash
#SBATCH --job-name=crossview
#SBATCH --nodes=16
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#
# Render pairs on all machines of a Slurm job, with the options of crossview render-pairs:
#   sbatch --nodes=16 deploy/slurm-render.sh --scenes '/shared/scans/*.glb' --out /shared/pairs
# crossview must be on the PATH of every machine, and the folders the same on all of them. A job
# that ran out of time goes on when it is submitted again.
set -euo pipefail

export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun does not know it since Slurm 22.05
port=${RAY_PORT:-6379}
export RAY_USAGE_STATS_ENABLED=0
# Only who knows this job's token may use its cluster; srun hands the environment on.
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token
mapfile -t machines < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${machines[0]}
num_others=$((${#machines[@]} - 1))
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address)
address=${address%% *}
common=(--num-cpus="$SLURM_CPUS_PER_TASK" --object-store-memory=134217728 --block)

trap 'kill $(jobs -p) 2> /dev/null || true' EXIT # Ray ends with this script

srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --node-ip-address="$address" --port="$port" \
    --include-dashboard=false "${common[@]}" &
head_process=$!
until ray status --address "$address:$port" > /dev/null 2>&1; do
    kill -0 "$head_process" # else it did not start, and has said why
    sleep 1
done
if ((num_others > 0)); then
    srun --nodes="$num_others" --ntasks="$num_others" --exclude="$head" \
        ray start --address="$address:$port" "${common[@]}" &
fi

# Machines that come a little later get their share as they come.
crossview render-pairs --ray-address "$address:$port" "$@"
