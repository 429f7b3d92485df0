# shellcheck shell=bash
# What tpu_vm.sh and queued_resource.sh share: a machine is had, the code is put on it, it trains, it is had anew when
# it was taken away. Sourced, after shared.sh.
#
# The scripts define `have_machine`, which returns when the machine is ready (2: it cannot be had), and `state`.
# Both set INSTALLED=0 when they make a machine.

POLL_SECONDS=${POLL_SECONDS:-30}
RUNTIME=${RUNTIME:-}
SPOT=${SPOT:-0}
INSTALLED=0
MOUNT=/mnt/storage

# The software of the machine, unless RUNTIME says another.
runtime_of() {
  case $1 in
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) die "TPU_TYPE=$1: v4-*, v5litepod-*, v5p-* or v6e-*, or set RUNTIME to the software version of this type" ;;
  esac
}

check_settings() {
  need CONFIG WORKDIR PROJECT ZONE TPU_TYPE NAME
  RUNTIME=${RUNTIME:-$(runtime_of "$TPU_TYPE")}
  train_line
  case "$SPOT/${STORAGE:-}/$WORKDIR" in
    0/*) ;;
    1//*) die "SPOT=1 without STORAGE: a preempted machine takes its disk along; see $0 --help" ;;
    1/*/"$MOUNT"/*) ;;
    1/*) die "WORKDIR=$WORKDIR is not on STORAGE, which is mounted at $MOUNT: a preempted machine takes its disk along" ;;
    *) die "SPOT=$SPOT: 0 or 1" ;;
  esac
}

# gcloud's own arguments come last: cloud tpu-vm describe NAME
cloud() {
  run gcloud compute tpus "$@" --project="$PROJECT" --zone="$ZONE"
}

# The state of a machine or a request, empty where there is none: ask tpu-vm 'value(state)'
ask() {
  gcloud compute tpus "$1" describe "$NAME" --project="$PROJECT" --zone="$ZONE" --format="$2" 2>/dev/null || true
}

on_all_workers() {
  cloud tpu-vm ssh "$NAME" --worker=all --command="$1"
}

# Puts the committed code on every worker and installs it there.
install_code() {
  local repository archive settings
  repository=$(cd "$HERE/.." && pwd)
  archive=$repository/build/avs_jax.tar.gz
  settings=$(quoted ACCELERATOR=tpu STORAGE="${STORAGE:-}" RECORDS="${RECORDS:-}")
  if [ -n "$(git -C "$repository" status --porcelain --untracked-files=no)" ]; then
    say "warning: changes that are not committed do not go to the machine"
  fi
  run mkdir -p "$repository/build" &&
    run git -C "$repository" archive --format=tar.gz --output="$archive" HEAD &&
    cloud tpu-vm scp "$archive" "$NAME:avs_jax.tar.gz" --worker=all &&
    on_all_workers "mkdir -p avs_jax && tar -xzf avs_jax.tar.gz -C avs_jax && env $settings bash avs_jax/launch/setup_vm.sh" &&
    INSTALLED=1
}

# One life of the machine; returns the trainer's exit code, or that of what failed before.
attempt() {
  have_machine || return
  [ "$INSTALLED" = 1 ] || install_code || return
  on_all_workers "cd avs_jax && . .venv/bin/activate && exec bash launch/alone.sh $(quoted "${TRAIN[@]}")"
}

# Trains until the run has ended, through as many machines as that takes; exits with the trainer's code.
train_through_preemptions() {
  local code found restarts=0
  while true; do
    code=0
    attempt || code=$?
    [ "$DRY_RUN" = 0 ] || return 0
    if [ "$code" != 0 ]; then
      found=$(state)
    fi
    if [ "$code" = 0 ]; then
      say "the run has ended; the machine is still there and is paid for: $(quoted "${DELETE[@]}")"
      return 0
    elif goes_on "$code"; then
      say "the run was asked to stop, or has lost one of its processes (exit code $code)"
    elif [ "$found" != "$READY" ]; then
      [ "$code" != 2 ] || [ -n "$found" ] || [ "$restarts" != 0 ] || die "$NAME could not be had, see above"
      say "the machine was taken away (state: ${found:-gone})"
      INSTALLED=0 # also where only its disk is new
    elif [ "$code" = 255 ]; then
      say "the connection was lost" # ssh's own exit code
    else
      say "failed with exit code $code; the machine is still there and is paid for: $(quoted "${DELETE[@]}")"
      return "$code"
    fi
    restarts=$((restarts + 1))
    [ "$restarts" -le "$MAX_RESTARTS" ] || die "given up after MAX_RESTARTS=$MAX_RESTARTS restarts; start again to go on"
    say "restart $restarts of at most $MAX_RESTARTS, in $POLL_SECONDS s"
    sleep "$POLL_SECONDS"
  done
}
