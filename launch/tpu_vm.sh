#!/usr/bin/env bash
# Trains on a Cloud TPU VM: one host (v5litepod-8) or a slice of several (v5litepod-64). Makes the machine if there is none,
# installs the committed code on every host, trains, and makes it anew when it is preempted.
#
#   CONFIG=configs/s4.py WORKDIR=runs/s4 PROJECT=my-project ZONE=us-west4-a TPU_TYPE=v5litepod-8 NAME=avs launch/tpu_vm.sh
#
# --dry-run shows the commands and runs none of them. Variables:
#
#   CONFIG       configuration: configs/s4.py:resnet50,512
#   WORKDIR      where the run lives; several hosts, and SPOT=1, need it on STORAGE: /mnt/storage/runs/s4
#   EXTRA_ARGS   further arguments of the trainer, quoted as in a shell: "--config.train.batch_size=16"
#   PROJECT, ZONE, TPU_TYPE, NAME   of the machine
#   RUNTIME      its software version (default: the one for the type)
#   SPOT         1: a preemptible machine
#   STORAGE      gs://BUCKET or NFS-HOST:/EXPORT, mounted on every host at /mnt/storage
#   RECORDS      a converted data set (gs://BUCKET/avsbench_s4, or a path on STORAGE), copied to data/avsbench_s4
#   MAX_RESTARTS, POLL_SECONDS   how often a preempted run is started again (30), and how long to wait before (30)
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=shared.sh
. "$HERE/shared.sh"
# shellcheck source=tpu.sh
. "$HERE/tpu.sh"
begin "$@"
check_settings
READY=READY
DELETE=(gcloud compute tpus tpu-vm delete "$NAME" --project="$PROJECT" --zone="$ZONE" --quiet)

state() {
  ask tpu-vm 'value(state)'
}

have_machine() {
  local found=""
  while true; do
    [ "$DRY_RUN" = 1 ] || found=$(state)
    case $found in
      READY) return 0 ;;
      "")
        create || return 2
        [ "$DRY_RUN" = 0 ] || return 0
        ;;
      PREEMPTED | TERMINATED) run "${DELETE[@]}" || return ;;
      STOPPED) cloud tpu-vm start "$NAME" || return ;;
      *) # on its way to one of the others
        say "$NAME is $found"
        sleep "$POLL_SECONDS"
        ;;
    esac
  done
}

create() {
  INSTALLED=0
  local settings=(--accelerator-type="$TPU_TYPE" --version="$RUNTIME")
  [ "$SPOT" = 0 ] || settings+=(--spot)
  cloud tpu-vm create "$NAME" "${settings[@]}" || {
    say "$NAME was not made; launch/queued_resource.sh waits until there is a machine"
    return 1
  }
}

train_through_preemptions
