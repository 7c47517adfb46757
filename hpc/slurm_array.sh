#!/usr/bin/env bash
# One line of a list of participants per task of a Slurm array; hpc/submit makes the list and submits this script.
#
#   sbatch --array=1-20%5 hpc/slurm_array.sh [OPTIONS] LIST BIDS_DIR OUTPUT_DIR [FLAGS OF sicnn-app ...]
#   sbatch hpc/slurm_array.sh --group [OPTIONS] BIDS_DIR OUTPUT_DIR [FLAGS OF sicnn-app ...]
#
# A line of LIST is a participant, or a participant and a session with a space between them. OPTIONS:
#
#   --image SIF      run in this image with Apptainer or Singularity (default: the program below)
#   --bind PATH      also let the container see this path, to read it only; may be repeated
#   --program PATH   the program to run (default: sicnn-app)
#   --offset N       the first task takes line N + 1 of LIST (default: 0)
#   --group          one job that gathers all participants instead
#
# What a task may use is asked for here, or at the command line of sbatch, which has precedence.
#SBATCH --job-name=sicnn-app
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

max_restarts=20 # of a task at its time limit; each goes on from the checkpoint of the one before
retry_seconds=${SICNN_APP_RETRY_SECONDS:-60}
max_retries=12 # the lock of a job that was killed on another node is free after ten minutes

fail() { # CODE MESSAGE
  echo "slurm_array.sh: $2" >&2
  exit "$1"
}

image=
program=sicnn-app
offset=0
level=participant
binds=()
while [[ ${1:-} == --* ]]; do
  case $1 in
    --image) image=$2 && shift ;;
    --bind) binds+=("$2") && shift ;;
    --program) program=$2 && shift ;;
    --offset) offset=$2 && shift ;;
    --group) level=group ;;
    *) fail 64 "unknown option $1: see the head of the script" ;;
  esac
  shift
done

selection=()
if [ "$level" = participant ]; then
  list=${1:?no LIST: see the head of the script} && shift
  number=$((offset + ${SLURM_ARRAY_TASK_ID:?submit it with sbatch --array}))
  read -r participant session <<<"$(sed -n "${number}p" "$list")"
  [ -n "$participant" ] || fail 66 "$list has no line $number: submit the array anew"
  selection=(--participant-label "$participant" ${session:+--session-id "$session"})
fi
mkdir -p "${2:?no BIDS_DIR and OUTPUT_DIR: see the head of the script}"
bids=$(realpath "$1")
output=$(realpath "$2")
shift 2

# What the job was given is what the app may take. FLAGS come later in the command, so they have precedence.
resources=(--omp-nthreads "${SLURM_CPUS_PER_TASK:-1}")
megabytes=${SLURM_MEM_PER_NODE:-$((${SLURM_MEM_PER_CPU:-0} * ${SLURM_CPUS_ON_NODE:-1}))}
if [ "$megabytes" -gt 0 ]; then
  # A tenth less, for what else counts as the job's; --mem means 10^9 bytes, Slurm 2^20.
  resources+=(--mem "$(LC_ALL=C awk "BEGIN { printf \"%.2f\", $megabytes * 1048576 * 0.9 / 1e9 }")")
fi
nvidia=()
if [ -n "${SLURM_JOB_GPUS:-}" ]; then
  resources+=(--device cuda)
  nvidia=(--nv)
else
  resources+=(--device cpu) # a GPU of the node may be another job's
fi

command=("$program")
if [ -n "$image" ]; then
  runtime=apptainer
  type -P apptainer >/dev/null || runtime=singularity
  if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    # --cleanenv would hide which of the node's GPUs is ours.
    export {APPTAINER,SINGULARITY}ENV_CUDA_VISIBLE_DEVICES="$CUDA_VISIBLE_DEVICES"
  fi
  # Paths inside are those outside, so that links within the dataset lead somewhere.
  command=("$runtime" run --cleanenv "${nvidia[@]}" -B "$bids:$bids:ro" -B "$output:$output")
  # Under the path that was given, which flags name, even where it leads elsewhere.
  for path in "${binds[@]}"; do command+=(-B "$(realpath "$path"):$path:ro"); done
  command+=("$image")
fi
command+=("$bids" "$output" "$level" "${selection[@]}" "${resources[@]}" "$@")

stopped=
signals=0
child=
forward() { # SIGNAL that came: tell the app to make its checkpoint
  stopped=$1
  signals=$((signals + 1))
  # The whole group, because a container has a process of Apptainer between the app and this script.
  [ -z "$child" ] || kill -TERM -- "-$child" 2>/dev/null || true
}
trap 'forward USR1' USR1 # the time limit is near
trap 'forward TERM' TERM # cancelled, or preempted: then Slurm itself requeues the task

# Gives every process in the background a group of its own.
set -m
wait_for_child() { # exit code of the process started last, however often a signal interrupts the waiting
  child=$!
  [ -z "$stopped" ] || forward "$stopped"
  local code= seen found
  while true; do
    seen=$signals found=0
    wait "$child" || found=$?
    # A signal ends the waiting with a code of its own, and 127 says that the child's was told before.
    [ -n "$code" ] && [ "$found" -eq 127 ] || code=$found
    [ "$signals" -ne "$seen" ] || break
  done
  child=
  return "$code"
}

# The TMPDIR of the node that submitted the job may be missing here.
said=$(mktemp 2>/dev/null || TMPDIR=/tmp mktemp)
trap 'rm -f "$said"' EXIT
run_app() {
  exec 3> >(trap '' TERM USR1 && exec tee "$said" >&2)
  local tee=$! code=0
  "${command[@]}" 2>&3 3>&- &
  wait_for_child || code=$?
  exec 3>&-
  wait "$tee" || true
  return "$code"
}

for ((retry = 1; ; retry++)); do
  code=0
  run_app || code=$?
  [ "$code" -ne 0 ] && [ -z "$stopped" ] && [ "$retry" -le "$max_retries" ] || break
  grep -q "held by another process" "$said" || break
  echo "tries again in $retry_seconds s: the lock of a job that was killed is free after ten minutes"
  sleep "$retry_seconds" &
  wait_for_child || true
  [ -z "$stopped" ] || break
done

if [ "$stopped" = USR1 ] && [ "$code" -ne 0 ]; then
  [ "${SLURM_RESTART_COUNT:-0}" -lt "$max_restarts" ] ||
    fail "$code" "not finished after $max_restarts restarts: ask for more time"
  echo "time limit: the task goes back into the queue and will continue from its checkpoint"
  scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
