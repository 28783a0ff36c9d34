#!/bin/bash
# Installs, builds, trains a small model on text this machine has, shows its experts and a sample: minutes on a laptop.
# May be run again: whatever is done is not done twice.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$root"

run_dir=runs/quickstart
number=0
current="nothing yet"
step() {
  number=$((number + 1))
  current=$1
  say
  say "== $number of 6: $current"
}

outcome=""
finish() {
  local code=$?
  if [[ $code != 0 && -z $outcome ]]; then
    outcome="stopped with exit code $code at step $number ($current): the message is above; run this again to go on"
  fi
  say
  say "quickstart: $outcome (${SECONDS} s)"
}
trap finish EXIT

step "install what is missing"
install_packages

step "configure"
configure build -Dcuda=disabled -Dtests=disabled

step "compile"
run ninja -C build

step "train (ctrl-c stops it after a checkpoint; running this again goes on from there)"
code=0
run build/switchyard train configs/debian_local.json --run-dir "$run_dir" || code=$?
if [[ $code == 75 ]]; then
  outcome="training was stopped and its checkpoint is whole: run scripts/quickstart.sh again to go on"
  exit 75
elif [[ $code != 0 ]]; then
  exit "$code"
fi

step "how evenly the experts work"
run build/switchyard experts "$run_dir"

step "a sample of what the model has learned"
run build/switchyard generate "$run_dir" -p "The " --max-tokens 300 --temperature 0.7

say
say "what to try next:"
say "  build/switchyard eval $run_dir                                 loss on text it has not seen"
say "  build/switchyard train configs/debian_local.json --run-dir runs/two --ranks 2 --steps 50"
say "                                                                 the same training on two ranks"
say "  build/switchyard config --help                                 every key of a config"
say "  scripts/test.sh                                                all tests"
outcome="done: built, trained and shown; the run is in $run_dir"
