#!/usr/bin/env bash
# Runs a command as the only trainer of this machine: bash launch/alone.sh python -m avs_jax.main ...
#
# A connection that was lost leaves its trainer behind, with the accelerator in its hands. It is asked to stop, saves its
# state, and the new command goes on from there.
set -euo pipefail
[ $# -gt 0 ] || {
  echo "usage: bash launch/alone.sh COMMAND..." >&2
  exit 2
}
folder=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/build
held=$folder/trainer.lock
patience=${PATIENCE_SECONDS:-600}

mkdir -p "$folder"
exec 9>>"$held" # the trainer inherits the lock and holds it until it ends
if ! flock --nonblock 9; then
  echo "stopping the trainer that is still running here" >&2
  kill -TERM "$(cat "$held")" || true
  flock --timeout "$patience" 9 || {
    echo "error: the trainer $(cat "$held") has not stopped in $patience s" >&2
    exit 2
  }
fi
echo $$ >"$held"
exec "$@"
