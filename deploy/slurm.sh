#!/usr/bin/env bash
#SBATCH --job-name=flowseg
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
#
# Jobs of a Slurm cluster: the folds of a cross validation, or the shards of a prediction. What follows
# the kind of job are options of flowseg cross-validate and flowseg predict:
#
#   sbatch --array=0-4 deploy/slurm.sh fold --data data --cell-type all --pretrain livecell --device cuda
#   sbatch deploy/slurm.sh gather --data data --cell-type all --pretrain livecell --device cuda
#   sbatch --array=1-8 deploy/slurm.sh shard --in data/test --out submission.csv --device cuda
#   sbatch deploy/slurm.sh join --out submission.csv
#
# --dependency=afterok:ID lets a job wait for another; sbatch --parsable prints its ID.
set -euo pipefail

kind=${1:?name a kind of job: fold, gather, shard or join}
shift
case $kind in
  fold) set -- cross-validate "$@" --fold "$SLURM_ARRAY_TASK_ID" --resume auto ;;
  gather) set -- cross-validate "$@" --gather ;;
  shard) set -- predict "$@" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" ;;
  join) set -- predict "$@" --join ;;
  *) echo "$kind is no kind of job: fold, gather, shard or join" >&2 && exit 2 ;;
esac

# Two minutes before the time is over, and before a preemption, Slurm sends SIGTERM to flowseg, which
# saves what it has. Its exit code says that the same command goes on: the job is queued again.
trap : TERM # that the shell gets as well: it lives to do so
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
code=0
srun flowseg "$@" || code=$?
if [[ $code -eq 75 ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
