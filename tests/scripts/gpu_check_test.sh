#!/bin/bash
# scripts/gpu_check.sh in a copy, with stand-ins for the build: what runs in each phase, and what the table says of it.
# shellcheck disable=SC2016,SC2034 # conditions are evaluated by expect
set -euo pipefail
scripts=$(cd "$(dirname "$0")/../../scripts" && pwd)
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

mkdir -p "$directory"/{bin,repository/scripts}
cp "$scripts/lib.sh" "$scripts/gpu_check.sh" "$directory/repository/scripts"
stand_in() { printf '#!/bin/bash\n%s\n' "$2" >"$directory/bin/$1" && chmod +x "$directory/bin/$1"; }
stand_in nvcc 'exit 0'
stand_in compute-sanitizer 'echo "$*"; [[ "$*" != *"$BROKEN"* ]]'
stand_in meson 'mkdir -p "$2/tests" && touch "$2/build.ninja"
  for test in a_cuda_test a_cuda_test_checked b_cuda_test b_cuda_test_checked other_test; do
    printf "#!/bin/bash\n[[ \$0 != *b_cuda_test ]] || { echo \"skipped: no device\"; exit 77; }\n" >"$2/tests/$test"
    chmod +x "$2/tests/$test"
  done
  printf "#!/bin/bash\n" >"$2/tests/nccl_ranks_test"
  cat >"$2/switchyard" <<"END"
#!/bin/bash
[[ "$1 $2" != "bench ops" ]] || { printf "other op\n\ngrouped products\nexperts forward 1 2 3\n"; exit; }
[[ $1 != bench ]] || { echo "$3: 777 tokens/s, 0.1 s per step"; exit; }
loss=2.5
[[ $* != *"--ranks 4"* ]] || loss=${LOSS:-2.5}
echo "{\"loss\":$loss,\"digest\":\"ab\"}"
END
  chmod +x "$2/tests/nccl_ranks_test" "$2/switchyard"'
stand_in ninja '[[ "$*" == *cuda_tests || "$*" == *switchyard ]]'

run_check() {
  code=0
  rm -rf "$directory"/repository/build-*
  output=$(env PATH="$directory/bin:$PATH" BROKEN=nothing OUT="$directory/out" "${settings[@]}" \
    bash "$directory/repository/scripts/gpu_check.sh" "$@" 2>&1) || code=$?
}
expect() {
  if ! eval "$2"; then
    printf 'FAILED: %s: not true: %s\ncode %s, output:\n%s\n' "$1" "$2" "$code" "$output"
    exit 1
  fi
  echo "ok: $1"
}

settings=()
run_check parity
expect "tests are run, and a skip gives its reason" \
  '[[ $code == 0 && $output =~ "parity a_cuda_test"\ +ok && $output =~ "parity b_cuda_test"\ +SKIP.*"no device" ]]'
expect "other tests are not" '[[ $output != *other_test* && $output != *checked* ]]'
expect "the table is a file" '[[ -s $directory/out/table.txt && $(ls "$directory/out" | wc -l) -le 8 ]]'

run_check sanitize
expect "each test runs under each tool" '[[ $code == 0 && $(grep -c "_cuda_test  *ok" <<<"$output") == 8 ]]'

settings=(BROKEN=racecheck)
run_check sanitize
expect "what a tool finds is a failure" \
  '[[ $code == 1 && $output =~ "racecheck a_cuda_test"\ +FAILED && $output =~ "memcheck a_cuda_test"\ +ok ]]'

mkdir -p "$directory/repository/configs" && touch "$directory/repository/configs/tiny.json"
settings=()
run_check nccl
expect "ranks are 1, 2 and 4, and their losses agree" \
  '[[ $code == 0 && $(grep -c "nccl [124] ranks  *ok" <<<"$output") == 3 ]] &&
    [[ $(grep -c "training on [24] ranks, ep_size [124]  *ok" <<<"$output") == 5 ]]'
expect "rows and collectives over GPUs are measured" \
  '[[ $(grep -c "bench moe on [124] ranks*  *ok" <<<"$output") == 3 && $(grep -c "bench comm on [24] ranks  *ok" <<<"$output") == 2 ]]'
settings=(LOSS=2.6)
run_check nccl
expect "losses that differ are a failure" '[[ $code == 1 && $output =~ "on 2 ranks, ep_size 2"\ +ok && $output =~ "on 4 ranks, ep_size 4"\ +FAILED ]]'

echo 'print("skipped: no torch"); raise SystemExit(77)' >"$directory/repository/scripts/gpu_facts.py"
settings=()
run_check bench
expect "the table has the speed of steps" '[[ $code == 0 && $(grep -c "ok  *[0-9]* s  777 tokens/s" <<<"$output") == 4 ]] &&
  [[ $output =~ "PyTorch reach"\ +SKIP.*"no torch" ]]'
expect "and that of each way of grouped products" \
  '[[ $output == *"grouped products"*"experts forward 1 2 3"* && $output != *"other op"* ]]'

run_check --emulated sanitize
expect "the emulated device has its own checker" \
  '[[ $code == 0 && $output == *"emulated device, no GPU"* && $output =~ "access checker a_cuda_test"\ +ok ]]'

run_check
expect "no phase is refused" '[[ $code == 2 ]]'
run_check parity speed
expect "an unknown phase is refused" '[[ $code == 2 && $output == usage* ]]'
