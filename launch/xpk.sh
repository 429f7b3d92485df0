#!/usr/bin/env bash
# Trains on a GKE cluster made by xpk (https://github.com/AI-Hypercomputer/xpk): submits a workload, which the cluster starts
# again when it is preempted.
#
#   CONFIG=configs/s4.py WORKDIR=/mnt/storage/runs/s4 PROJECT=my-project ZONE=us-west4-a TPU_TYPE=v5litepod-64 NAME=avs \
#   CLUSTER=my-cluster IMAGE=us-docker.pkg.dev/my-project/avs/avs_jax launch/xpk.sh
#
# --dry-run shows the commands and runs none of them. Variables:
#
#   CONFIG       configuration: configs/s4.py:resnet50,512
#   WORKDIR      where the run lives, on storage of the cluster (xpk storage attach ... --auto-mount true)
#   EXTRA_ARGS   further arguments of the trainer, quoted as in a shell: "--config.train.batch_size=16"
#   PROJECT, ZONE, CLUSTER   the cluster
#   NAME         of the workload: lower-case letters, digits and dashes
#   TPU_TYPE     of each slice; or DEVICE_TYPE for GPUs (h100-80gb-8)
#   SLICES       how many (1)
#   IMAGE        where the container is, see launch/Dockerfile
#   BUILD        1: make it from the files here and push it there first
#   WAIT         1: wait for the workload's end; exit with 0 only if it is a good one
#   MAX_RESTARTS, POLL_SECONDS   how often a preempted run is started again (30), and how often WAIT looks (30)
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=shared.sh
. "$HERE/shared.sh"
begin "$@"
need CONFIG WORKDIR PROJECT ZONE CLUSTER NAME IMAGE
train_line
# shellcheck disable=SC2153 # `need` has looked
case $NAME in
  *[!a-z0-9-]* | [!a-z]* | *-) die "NAME=$NAME: lower-case letters, digits and dashes only, a letter first" ;;
esac
case ${TPU_TYPE:+tpu}${DEVICE_TYPE:+device} in
  tpu) device=(--tpu-type="$TPU_TYPE") extra=tpu ;;
  device) device=(--device-type="$DEVICE_TYPE") extra=cuda ;;
  *) die "set TPU_TYPE (v5litepod-64), or DEVICE_TYPE (h100-80gb-8) for GPUs, not both" ;;
esac

if [ "${BUILD:-0}" = 1 ]; then
  run docker build --file "$HERE/Dockerfile" --build-arg EXTRA="$extra" --tag "$IMAGE" "$HERE/.."
  run docker push "$IMAGE"
fi
# exec: the signal of a preemption reaches the trainer, not a shell around it. A checkpoint takes longer than the usual 30 s.
run xpk workload create --cluster="$CLUSTER" --workload="$NAME" --project="$PROJECT" --zone="$ZONE" \
  "${device[@]}" --num-slices="${SLICES:-1}" --docker-image="$IMAGE" \
  --max-restarts="$MAX_RESTARTS" --restart-on-exit-codes="$EXIT_PREEMPTED,$EXIT_LOST" --termination-grace-period-seconds=300 \
  --command="exec $(quoted "${TRAIN[@]}")"
[ "${WAIT:-0}" = 1 ] || exit 0

ask=(kubectl get jobset "$NAME" --output='jsonpath={.status.terminalState}')
if [ "$DRY_RUN" = 1 ]; then
  run "${ask[@]}"
  exit 0
fi
while true; do
  case $("${ask[@]}") in
    Completed) exit 0 ;;
    Failed) die "the workload $NAME has failed: kubectl logs --selector=jobset.sigs.k8s.io/jobset-name=$NAME" ;;
  esac
  sleep "${POLL_SECONDS:-30}"
done
