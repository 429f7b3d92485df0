# shellcheck shell=bash
# What the launch scripts share: their arguments, their variables, dry runs, and the line that trains. Sourced, never run.
#
#   CONFIG        configuration, with its argument: configs/s4.py:resnet50,512
#   WORKDIR       where the run lives; a path that every host sees, also after a restart
#   EXTRA_ARGS    further arguments of the trainer, quoted as in a shell: "--config.train.batch_size=16 --config.eval.audio='swap'"
#   MAX_RESTARTS  how often a run that was preempted is started again (default: 30)
#
# Works with bash 3.2 (macOS) and later.
set -euo pipefail

# What the trainer exits with where the same command goes on from its last checkpoint.
EXIT_PREEMPTED=75 # it was asked to stop, and has saved its state (avs_jax/main.py)
EXIT_LOST=6       # another process of the job died (avs_jax/parallel/processes.py)
DRY_RUN=0
MAX_RESTARTS=${MAX_RESTARTS:-30}

die() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

say() {
  printf '%s\n' "$*" >&2
}

# Reads a script's arguments: begin "$@"
begin() {
  local argument
  for argument in "$@"; do
    case $argument in
      --dry-run) DRY_RUN=1 ;;
      -h | --help)
        sed -n '2,/^[^#]/ s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
      *) die "unknown argument $argument: settings are environment variables, see $0 --help" ;;
    esac
  done
  case $MAX_RESTARTS in
    '' | *[!0-9]*) die "MAX_RESTARTS=$MAX_RESTARTS: a whole number is needed" ;;
  esac
}

# One error that names every variable that is not set: need CONFIG WORKDIR
need() {
  local name missing=""
  for name in "$@"; do
    [ -n "${!name:-}" ] || missing="$missing $name"
  done
  [ -z "$missing" ] || die "not set:$missing (environment variables, see $0 --help)"
}

# Prints its arguments as words of a shell, so that they can be copied: quoted a "b c"  ->  a 'b c'
quoted() {
  local word line="" escaped="'\\''"
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_@%+=:,./-]*) word="'${word//\'/$escaped}'" ;;
    esac
    line="$line${line:+ }$word"
  done
  printf '%s' "$line"
}

# Whether the trainer's exit code asks for a restart.
goes_on() {
  [ "$1" = "$EXIT_PREEMPTED" ] || [ "$1" = "$EXIT_LOST" ]
}

# Shows a command and runs it; in a dry run only shows it, on standard output.
run() {
  if [ "$DRY_RUN" = 1 ]; then
    printf '%s\n' "$(quoted "$@")"
  else
    say "+ $(quoted "$@")"
    "$@"
  fi
}

# Sets TRAIN to the words of the line in which every script ends.
train_line() {
  need CONFIG WORKDIR
  TRAIN=(python -m avs_jax.main --config "$CONFIG" --workdir "$WORKDIR")
  [ -n "${EXTRA_ARGS:-}" ] || return 0
  # xargs knows a shell's quotes, and unlike eval it runs nothing.
  # shellcheck disable=SC2016 # for the inner shell
  local word words=(xargs sh -c 'for word; do printf "%s\0" "$word"; done' sh)
  "${words[@]}" <<<"$EXTRA_ARGS" >/dev/null 2>&1 || die "EXTRA_ARGS=$EXTRA_ARGS: its quotes do not match"
  while IFS= read -r -d '' word; do
    TRAIN+=("$word")
  done < <("${words[@]}" <<<"$EXTRA_ARGS")
}
