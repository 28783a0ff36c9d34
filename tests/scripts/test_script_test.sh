#!/bin/bash
# scripts/test.sh in a copy, with stand-ins for the build: results are added up over the builds, a failure never stops
# the steps after it, and the last line and the exit code tell of it.
# shellcheck disable=SC2016,SC2034 # conditions are evaluated by expect
set -euo pipefail
if ! command -v git >/dev/null; then
  echo "skipped: git is not installed"
  exit 77
fi
scripts=$(cd "$(dirname "$0")/../../scripts" && pwd)
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

mkdir -p "$directory"/{bin,repository/scripts,repository/engine,repository/moe,repository/attention,repository/comm}
cp "$scripts/lib.sh" "$scripts/test.sh" "$scripts/summarize_tests.py" "$directory/repository/scripts"
echo 'print("planted")' >"$directory/repository/scripts/plant_bugs.py"
echo 'echo "fuzzed"' >"$directory/repository/scripts/fuzz.sh"
echo 'print("killed")' >"$directory/repository/scripts/kill_campaign.py"
printf '/build*/\n' >"$directory/repository/.gitignore"
stand_in() { printf '#!/bin/bash\n%s\n' "$2" >"$directory/bin/$1" && chmod +x "$directory/bin/$1"; }
stand_in dpkg-query 'echo installed'
stand_in apt-get 'exit 1'
stand_in nvcc 'exit 1'
stand_in ninja 'echo "ninja $*"; [[ "$*" != *"$BROKEN"* ]] || { echo "error: wanted"; exit 1; }'
# A test passes and one is skipped in every build; OUTCOME is the third's result.
stand_in meson 'case $1 in
  setup) mkdir -p "$2" && touch "$2/build.ninja" && echo "options $*" ;;
  test) mkdir -p "$3/meson-logs"
    [[ -z ${LITTER:-} ]] || touch litter
    for test in "a OK" "b SKIP no-reason-but-this" "c $OUTCOME the-output"; do
      read -r name result output <<<"$test"
      echo "{\"name\": \"$name\", \"result\": \"$result\", \"stdout\": \"$output\", \"returncode\": 1}"
    done >"$3/meson-logs/testlog.json" ;;
esac'
git -C "$directory/repository" init -q
git -C "$directory/repository" add -A
git -C "$directory/repository" -c user.name=test -c user.email=test@localhost commit -qm test

run_tests() {
  code=0
  rm -rf "$directory"/repository/{build-*,litter}
  output=$(env PATH="$directory/bin:$PATH" OUTCOME=OK BROKEN=nothing "${settings[@]}" \
    bash "$directory/repository/scripts/test.sh" "$@" 2>&1) || code=$?
  last=$(tail -n 1 <<<"$output")
}
expect() {
  if ! eval "$2"; then
    printf 'FAILED: %s: not true: %s\ncode %s, output:\n%s\n' "$1" "$2" "$code" "$output"
    exit 1
  fi
  echo "ok: $1"
}

settings=()
run_tests
expect "passed, failed and skipped end the output" '[[ $code == 0 && $last == "2 passed, 0 failed, 1 skipped" ]]'
expect "the reason of a skip is printed" '[[ $output == *"test: b skipped: no-reason-but-this"* ]]'

run_tests --ci
# five builds with two passes and a skip each, the compiled CUDA kernels, the kills, the planted bugs, the fuzz targets and a clean tree
expect "results of all builds are added up" '[[ $code == 0 && $last == "15 passed, 0 failed, 5 skipped" ]]'
expect "the main build makes warnings errors" '[[ $output == *"options setup build-ci"*"-Dwerror=true"* ]]'
expect "steps are timed" '[[ $output =~ [0-9]+\ s\ \ thread\ sanitizer\ +ok ]]'

settings=(OUTCOME=TIMEOUT)
run_tests
expect "a test that fails is shown and fails the script" \
  '[[ $code == 1 && $last == "1 passed, 1 failed, 1 skipped" && $output == *"c failed (TIMEOUT"*"    the-output"* ]]'

expect "what failed is shown again at the end" '[[ $output == *"== what failed"*"test: c failed (TIMEOUT"*"    the-output"* ]]'

settings=(BROKEN=build-asan)
run_tests --ci
expect "a build that fails counts, and the steps after it run" \
  '[[ $code == 1 && $last == "13 passed, 1 failed, 4 skipped" && $output == *"error: wanted"*"== thread sanitizer"*"== what failed"*"error: wanted"* ]]'

settings=(LITTER=1)
run_tests --ci
expect "what tests leave in the tree is a failure" '[[ $code == 1 && $output == *"?? litter"*"clean tree"*FAILED* ]]'

settings=()
run_tests --slow
expect "an unknown option is refused" '[[ $code == 2 && $last == usage* ]]'

run_tests --ci
expect "CUDA kernels are compiled" '[[ $output == *"options setup build-cuda -Dcuda=enabled"* ]]'
expect "they run on an emulated device" \
  '[[ $output == *"options setup build-emulated -Dcuda=emulated"*"ninja -C build-emulated cuda_tests"*"emulated: b skipped"* ]]'
