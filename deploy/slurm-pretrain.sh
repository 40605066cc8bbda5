#!/usr/bin/env bash
#SBATCH --job-name=crossview-pretrain
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
#SBATCH --open-mode=append
#
# Pre-train on all GPUs of a Slurm job, with the options of crossview pretrain:
#   sbatch --nodes=2 deploy/slurm-pretrain.sh --data /shared/pairs --preset base --out /shared/run
# crossview must be on the PATH of every machine, and the folders the same on all of them. Five
# minutes before its time is over the job saves, ends and goes into the queue again, where it goes
# on from there; so it does when Slurm pre-empts it, which sends SIGTERM first.
set -euo pipefail

export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun does not know it since Slurm 22.05
port=${RENDEZVOUS_PORT:-29400}
mapfile -t machines < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${machines[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address)
address=${address%% *}

srun --kill-on-bad-exit=1 \
    crossview pretrain --launcher torchrun --nnodes "${#machines[@]}" \
    --rendezvous "$address:$port" "$@" &
training=$!

again=
trap 'again=yes; kill -TERM "$training"' USR1 # srun hands it on to every machine
trap 'kill -TERM "$training"' TERM
while kill -0 "$training" 2> /dev/null; do
    wait "$training" || true # a signal ends it early
done
status=0
wait "$training" || status=$?
if [[ $again && $status == 0 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
