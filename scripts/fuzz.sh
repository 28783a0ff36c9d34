#!/bin/bash
# Builds the fuzz targets with clang and sanitizers, and runs each on its corpus.
#   scripts/fuzz.sh                    ten seconds for each
#   scripts/fuzz.sh --executions N     N executions for each, and a table in tests/results/fuzzing.md
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$root"

limit=-max_total_time=10 executions=""
if [[ ${1:-} == --executions && ${2:-} =~ ^[0-9]+$ && $# == 2 ]]; then
  executions=$2 limit=-runs=$2
elif [[ $# != 0 ]]; then
  complain "usage: scripts/fuzz.sh [--executions N]"
  exit 2
fi
if ! command -v clang++ >/dev/null; then
  say "skipped: clang++ is not installed"
  exit 77
fi

targets=(config manifest index safetensors token_cache) # the slowest first
directory=build-fuzz
compiler=clang++
if command -v ccache >/dev/null; then compiler="ccache clang++"; fi
CXX=$compiler configure "$directory" -Dfuzz=true -Dtests=disabled -Db_sanitize=address,undefined -Db_lundef=false \
  -Doptimization=2
run ninja -C "$directory" fuzz_targets >"$directory/build.log" || { tail -n 50 "$directory/build.log" && exit 1; }

# New inputs go to the first directory; what was found is written beside the log.
fuzz() {
  local target=$1
  local log=$directory/$target.log work=$directory/$target-corpus
  mkdir -p "$work"
  run exec "$directory/tests/fuzz/${target}_fuzz" "$limit" -max_len=4096 -timeout=5 -rss_limit_mb=1024 -print_final_stats=1 \
    "-artifact_prefix=$directory/$target-" "$work" "tests/fuzz/corpus/$target" >"$log" 2>&1
}

# As many at once as there are processors.
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true' EXIT # who is interrupted leaves nobody behind
for target in "${targets[@]}"; do
  while (($(jobs -rp | wc -l) >= $(nproc))); do sleep 0.1; done
  fuzz "$target" &
  pids+=($!)
done

rows=()
failed=""
for i in "${!targets[@]}"; do
  target=${targets[i]}
  log=$directory/$target.log
  if ! wait "${pids[i]}"; then
    tail -n 60 "$log"
    complain "the $target reader failed: see $log"
    failed=yes
    continue
  fi
  done_runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  speed=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
  memory=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")
  say "$target: $done_runs executions, $speed a second, at most $memory MiB, nothing found"
  rows+=("| $target | $done_runs | $speed | $memory | none |")
done
[[ -z $failed ]] || exit 1

[[ -n $executions ]] || exit 0
{
  echo "# Fuzzing"
  echo
  echo "$(date +%F), commit $(git rev-parse --short HEAD), \`scripts/fuzz.sh --executions $executions\`: libFuzzer with the address and"
  echo "undefined behaviour sanitizers, inputs of up to 4,096 bytes; one that takes more than five seconds or 1 GiB is a finding."
  echo
  echo "| reader | executions | a second | MiB | findings |"
  echo "|---|---|---|---|---|"
  printf '%s\n' "${rows[@]}"
} >tests/results/fuzzing.md
