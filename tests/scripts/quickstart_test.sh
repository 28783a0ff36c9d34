#!/bin/bash
# The quickstart in a copy of the scripts, with stand-ins for the build and the program: every step is printed, exit
# codes are passed on, and the last line says what happened.
# shellcheck disable=SC2016,SC2034 # conditions are evaluated by expect
set -euo pipefail
scripts=$(cd "$(dirname "$0")/../../scripts" && pwd)
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

mkdir "$directory/scripts" "$directory/build" "$directory/bin"
cp "$scripts/lib.sh" "$scripts/quickstart.sh" "$directory/scripts"
touch "$directory/build/build.ninja"
printf '#!/bin/bash\necho installed\n' >"$directory/bin/dpkg-query"
printf '#!/bin/bash\nexit "${NINJA_EXIT:-0}"\n' >"$directory/bin/ninja"
printf '#!/bin/bash\nexit 1\n' | tee "$directory/bin/apt-get" >"$directory/bin/meson"
printf '#!/bin/bash\necho "called $*"\n[[ $1 != train ]] || exit "${TRAIN_EXIT:-0}"\n' >"$directory/build/switchyard"
chmod +x "$directory"/bin/* "$directory/build/switchyard"

quickstart() {
  code=0
  output=$(cd / && env PATH="$directory/bin:$PATH" "$@" bash "$directory/scripts/quickstart.sh" 2>&1) || code=$?
  last=$(tail -n 1 <<<"$output")
}
expect() {
  if ! eval "$2"; then
    printf 'FAILED: %s: not true: %s\ncode %s, output:\n%s\n' "$1" "$2" "$code" "$output"
    exit 1
  fi
  echo "ok: $1"
}

quickstart
expect "all steps pass" '[[ $code == 0 && $last == "quickstart: done: "* ]]'
expect "a build that is configured is not configured again" '[[ $output == *"configured already"* ]]'
expect "steps are printed before they run" \
  '[[ $output == *"$ build/switchyard train configs/debian_local.json --run-dir runs/quickstart"*"called train"* ]]'
expect "load and sample are shown" '[[ $output == *"called experts runs/quickstart"*"called generate runs/quickstart"* ]]'

quickstart TRAIN_EXIT=75
expect "a run stopped on request is no failure to hide" '[[ $code == 75 && $last == *"run scripts/quickstart.sh again"* ]]'
expect "nothing is shown of a stopped run" '[[ $output != *"called experts"* ]]'

quickstart TRAIN_EXIT=3
expect "an exit code of training is passed on" '[[ $code == 3 && $last == *"exit code 3 at step 4 (train"* ]]'

quickstart NINJA_EXIT=1
expect "a failed build stops it" '[[ $code == 1 && $last == *"at step 3 (compile)"* && $output != *"called"* ]]'
