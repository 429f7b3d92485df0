#!/usr/bin/env bash
# Installs this clone on the machine it runs on, in .venv, and brings storage and data there. Run it again to update.
#
#   ACCELERATOR=tpu launch/setup_vm.sh
#
# --dry-run shows the commands and runs none of them. Variables:
#
#   ACCELERATOR   tpu, cuda or cpu
#   STORAGE       gs://BUCKET or NFS-HOST:/EXPORT, mounted at /mnt/storage
#   RECORDS       a converted data set (gs://BUCKET/avsbench_s4, or a path), copied to data/avsbench_s4
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=shared.sh
. "$HERE/shared.sh"
begin "$@"
need ACCELERATOR
cd "$HERE/.."

case $ACCELERATOR in
  tpu | cuda) package=".[$ACCELERATOR]" ;;
  cpu) package=. ;;
  *) die "ACCELERATOR=$ACCELERATOR: tpu, cuda or cpu" ;;
esac

# The first Python that is new enough and can make environments; images of TPU VMs are often older.
python_here() {
  local name
  for name in python3.13 python3.12 python3.11 python3; do
    if "$name" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      echo "$name"
      return
    fi
  done
}

make_environment() {
  local python
  python=$(python_here)
  if [ -n "$python" ]; then
    run "$python" -m venv .venv
  else
    run python3 -m pip install --user uv
    run python3 -m uv venv --python 3.12 --seed .venv
  fi
}

install_gcsfuse() {
  local key=/usr/share/keyrings/cloud.google.asc list=/etc/apt/sources.list.d/gcsfuse.list
  local from=https://packages.cloud.google.com/apt
  run sudo sh -c "curl -fsS $from/doc/apt-key.gpg -o $key"
  run sudo sh -c "echo deb [signed-by=$key] $from gcsfuse-\$(lsb_release -cs) main >$list"
  run sudo apt-get update
  run sudo apt-get install --yes gcsfuse
}

mount_storage() {
  local place=/mnt/storage
  if mountpoint -q "$place"; then
    return
  fi
  run sudo mkdir -p "$place"
  run sudo chown "$(id -un)" "$place"
  case $STORAGE in
    gs://*)
      command -v gcsfuse >/dev/null || install_gcsfuse
      run gcsfuse --implicit-dirs "${STORAGE#gs://}" "$place"
      ;;
    *:/*)
      command -v mount.nfs >/dev/null || run sudo apt-get install --yes nfs-common
      run sudo mount -t nfs "$STORAGE" "$place"
      ;;
    *) die "STORAGE=$STORAGE: gs://BUCKET or NFS-HOST:/EXPORT" ;;
  esac
}

copy_records() {
  local place
  place=data/$(basename "$RECORDS")
  run mkdir -p "$place"
  case $RECORDS in
    gs://*) run gcloud storage rsync --recursive "$RECORDS" "$place" ;;
    *) run cp -RT "$RECORDS" "$place" ;;
  esac
}

[ -x .venv/bin/python ] || make_environment
run .venv/bin/python -m pip install --quiet --upgrade --editable "$package"
[ -z "${STORAGE:-}" ] || mount_storage
[ -z "${RECORDS:-}" ] || copy_records
