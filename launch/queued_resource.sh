#!/usr/bin/env bash
# Trains on a Cloud TPU VM or slice that is asked for through the queue: waits until there is one, installs the committed code
# on every host, trains, and queues again when it is preempted. The way to have preemptible machines.
#
#   CONFIG=configs/s4.py WORKDIR=/mnt/storage/runs/s4 STORAGE=gs://my-bucket SPOT=1 \
#   PROJECT=my-project ZONE=us-west4-a TPU_TYPE=v5litepod-64 NAME=avs launch/queued_resource.sh
#
# --dry-run shows the commands and runs none of them. Variables:
#
#   CONFIG       configuration: configs/s4.py:resnet50,512
#   WORKDIR      where the run lives; several hosts, and SPOT=1, need it on STORAGE: /mnt/storage/runs/s4
#   EXTRA_ARGS   further arguments of the trainer, quoted as in a shell: "--config.train.batch_size=16"
#   PROJECT, ZONE, TPU_TYPE, NAME   of the machine and of the request
#   RUNTIME      its software version (default: the one for the type)
#   SPOT         1: a preemptible machine
#   STORAGE      gs://BUCKET or NFS-HOST:/EXPORT, mounted on every host at /mnt/storage
#   RECORDS      a converted data set (gs://BUCKET/avsbench_s4, or a path on STORAGE), copied to data/avsbench_s4
#   MAX_RESTARTS, POLL_SECONDS   how often a preempted run is started again (30), and how often to ask the queue (30)
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=shared.sh
. "$HERE/shared.sh"
# shellcheck source=tpu.sh
. "$HERE/tpu.sh"
begin "$@"
check_settings
READY=ACTIVE
DELETE=(gcloud compute tpus queued-resources delete "$NAME" --project="$PROJECT" --zone="$ZONE" --force --quiet)

state() {
  ask queued-resources 'value(state.state)'
}

have_machine() {
  local found="" settings=(--node-id="$NAME" --accelerator-type="$TPU_TYPE" --runtime-version="$RUNTIME") asked=0
  [ "$SPOT" = 0 ] || settings+=(--spot)
  while true; do
    [ "$DRY_RUN" = 1 ] || found=$(state)
    case $found in
      ACTIVE) return 0 ;;
      "")
        cloud queued-resources create "$NAME" "${settings[@]}" || return 2
        asked=1 INSTALLED=0
        [ "$DRY_RUN" = 0 ] || return 0
        ;;
      FAILED | SUSPENDED) # a new request is needed; one that fails at once would fail again
        [ "$asked" = 0 ] || die "the request $NAME has $found: gcloud compute tpus queued-resources describe says why"
        run "${DELETE[@]}" || return
        ;;
      *) # in the queue, being made, or being taken away
        say "$NAME: $found"
        sleep "$POLL_SECONDS"
        ;;
    esac
  done
}

train_through_preemptions
