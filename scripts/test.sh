#!/bin/bash
# Installs, builds and runs every test. The last line is the verdict: "N passed, N failed, N skipped".
#   scripts/test.sh          what a change has to pass: minutes on a laptop
#   scripts/test.sh --ci     also: warnings as errors, sanitizers, the CUDA builds, and a tree left clean
#   scripts/test.sh --full   also: the long campaigns
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$root"
export PYTHONDONTWRITEBYTECODE=1

mode=${1:-}
if [[ $# -gt 1 || ! $mode =~ ^(|--ci|--full)$ ]]; then
  complain "usage: scripts/test.sh [--ci|--full]"
  exit 2
fi

passed=0 failed=0 skipped=0
summary=()  # a line for each step
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

pass() { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)) && complain "failed: $*"; }
skip() { skipped=$((skipped + 1)) && say "skipped: $*"; }

# Runs a function as a step: announced, timed, and the next one is run whatever became of it.
step() {
  local name=$1 start=$SECONDS before=$failed skipped_before=$skipped verdict=ok
  shift
  say
  say "== $name"
  "$@" || fail "$name"
  if [[ $failed != "$before" ]]; then
    verdict=FAILED
  elif [[ $skipped != "$skipped_before" ]]; then
    verdict="ok, with skips"
  fi
  summary+=("$(printf '%6d s  %-34s %s' $((SECONDS - start)) "$name" "$verdict")")
}

# Configures and compiles, all or only $target; a build that fails shows its errors, not its progress.
target=""
build() {
  local directory=$1 log="$logs/build"
  shift
  configure "$directory" "$@" || return
  say "\$ ninja -C $directory${target:+ $target}"
  if ! ninja -C "$directory" ${target:+"$target"} >"$log" 2>&1; then
    tail -n 100 "$log" | tee -a "$logs/failures"
    return 1
  fi
  tail -n 1 "$log"
}

# Runs the suites of a build and adds up their results.
run_suites() {
  local label=$1 directory=$2 suite arguments=() log="$logs/summary" counts
  local results="$directory/meson-logs/testlog.json"
  shift 2
  for suite in "$@"; do arguments+=(--suite "$suite"); done
  rm -f "$results"
  run meson test -C "$directory" --no-rebuild --timeout-multiplier "${timeout_multiplier:-1}" "${arguments[@]}" || true  # the results say it
  if [[ ! -s $results ]]; then
    complain "$directory has no tests in the suites $*"
    return 1
  fi
  python3 scripts/summarize_tests.py "$results" "$label" >"$log" || return
  sed '$d' "$log"
  sed -n '$d; / failed (/,$p' "$log" >>"$logs/failures"
  read -r -a counts < <(tail -n 1 "$log")
  passed=$((passed + counts[1])) failed=$((failed + counts[2])) skipped=$((skipped + counts[3]))
}

build_and_test() {
  local label=$1 directory=$2 options=() suites=()
  shift 2
  while [[ $1 != -- ]]; do options+=("$1") && shift; done
  shift
  suites=("$@")
  build "$directory" "${options[@]}" || return
  run_suites "$label" "$directory" "${suites[@]}"
}

with_sanitizer() {
  local name=$1 sanitizer=$2 directory=$3
  shift 3
  # gcc 12 places variables of 64-byte vectors wrongly on the stack that the use-after-return check makes
  local -x ASAN_OPTIONS=detect_stack_use_after_return=0:abort_on_error=1
  local -x UBSAN_OPTIONS=halt_on_error=1:abort_on_error=1:print_stacktrace=1
  local -x TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
  local timeout_multiplier=10
  # lines are enough of debug information, and what null, vptr and object-size find the address sanitizer finds, too:
  # with them files take three times as long to compile
  build_and_test "$name" "$directory" -Dcuda=disabled "-Db_sanitize=$sanitizer" -Db_lundef=false -Doptimization=1 \
    -Ddebug=false "-Dcpp_args=-g1 -fno-sanitize=null,vptr,object-size" -- "$@"
}

thread_sanitizer() {
  local target=unit_tests
  with_sanitizer tsan thread build-tsan unit
}

# Compiles for one architecture and PTX; the tests skip where there is no GPU.
cuda_compile() {
  local target=cuda_tests
  PATH=$PATH:/usr/local/cuda/bin
  if ! command -v nvcc >/dev/null; then
    skip "CUDA sources are not compiled here: nvcc is not installed"
  else
    build build-cuda -Dcuda=enabled -Dgpu_arch=90 -Dwerror=true && pass && run_suites cuda build-cuda cuda
  fi
}

cuda_emulated() {
  local target=cuda_tests
  build_and_test emulated build-emulated -Dcuda=emulated -Dwerror=true -- cuda
}

# Every reader of files from outside, for seconds or for ten million inputs.
fuzz() {
  local code=0
  bash scripts/fuzz.sh "$@" || code=$?
  if [[ $code == 77 ]]; then
    skip "nothing is fuzzed here: clang++ is not installed"
  else
    [[ $code == 0 ]] && pass
  fi
}

preemption() { run python3 scripts/preemption_campaign.py build-ci/switchyard --results tests/results/preemption.md && pass; }

checkpoint_damage() { run bash scripts/checkpoint_damage.sh build-ci/tests/damage_test && pass; }

compare_safetensors() {
  local code=0
  run python3 scripts/compare_safetensors.py build-ci/tests/safetensors_accepts \
    --results tests/results/compare_safetensors.md || code=$?
  if [[ $code == 77 ]]; then skip "the package safetensors is not installed"; else [[ $code == 0 ]] && pass; fi
}

# Each bug that is planted has to fail its test.
planted_bugs() { run python3 scripts/plant_bugs.py --build build-ci --emulated-build build-emulated "$@" && pass; }

fifty_steps_without_avx() { STEPS=50 run bash tests/e2e/no_avx_test.sh "$root/build-ci/switchyard" "$root" && pass; }

# Every crash state of a save, and every step and pair of layouts that a run can be saved and gone on with.
crashes_and_resumes() {
  CRASH_STATES=all run build-ci/tests/crash_states_test || return
  pass
  RESUME_LATTICE=all run build-ci/tests/resume_lattice_test && pass
}

# Runs are killed at random instants and resumed.
kills() { run python3 scripts/kill_campaign.py --switchyard build-ci/switchyard "$@" && pass; }

tree_state() { git -c "safe.directory=$root" status --porcelain; }

# What the tests made in the working tree; what was changed before they ran is not theirs.
clean_tree() {
  if [[ ! -e .git ]] || ! command -v git >/dev/null; then
    skip "no git here to say whether the tree was left clean"
  elif [[ $(tree_state) == "$state_before" ]]; then
    pass
  else
    complain "the tests have left changes in the working tree (git status):"
    diff <(cat <<<"$state_before") <(tree_state) >&2 || true
    return 1
  fi
}

# the emulated processor without AVX, ranks that are processes, and what fuzzes
[[ -z $mode ]] || packages+=(qemu-user libopenmpi-dev openmpi-bin clang libclang-rt-14-dev)
step "install what is missing" install_packages
state_before=$(tree_state 2>/dev/null || true)

if [[ -z $mode ]]; then
  step "build and test" build_and_test test build-test -Dcuda=disabled -- unit e2e tools scripts mpi
else
  step "build and test, warnings are errors" build_and_test test build-ci -Dcuda=disabled -Dwerror=true -- \
    unit e2e tools scripts mpi
  step "address and undefined sanitizers" with_sanitizer asan address,undefined build-asan unit e2e
  step "thread sanitizer" thread_sanitizer
  step "CUDA compile" cuda_compile
  step "CUDA on an emulated device" cuda_emulated
  [[ $mode == --full ]] || step "kills, for 90 s" kills --kills 200 --seconds 90
  [[ $mode == --full ]] || step "planted bugs, a sample" planted_bugs --sample 4
  [[ $mode == --full ]] || step "fuzz targets, a sample" fuzz
  step "clean tree" clean_tree
  if [[ $mode == --full ]]; then  # writes its table into the tree
    step "all crash states and resumes" crashes_and_resumes
    step "2,000 kills" kills --kills 2000 --results tests/results/kill_campaign.md
    step "planted bugs, all" planted_bugs --results tests/results/planted_bugs.md
    step "fifty steps without AVX" fifty_steps_without_avx
    step "fuzz targets, ten million inputs" fuzz --executions 10000000
    step "preemption" preemption
    step "damaged checkpoints" checkpoint_damage
    step "safetensors beside the reference" compare_safetensors
  fi
fi

if [[ -s $logs/failures ]]; then  # again, where they are seen first
  say
  say "== what failed"
  cat "$logs/failures"
fi
say
printf '%s\n' "${summary[@]}"
say "$passed passed, $failed failed, $skipped skipped"
[[ $failed == 0 ]]
