#!/bin/bash
# Checks the CUDA path on a machine with a GPU, in phases of at most 8 minutes that install nothing.
#   scripts/gpu_check.sh pack                    where the libraries are installed: collects them in build-carry/,
#                                                with cudnn-frontend's headers from CUDNN_FRONTEND_INCLUDE
#   scripts/gpu_check.sh [--emulated] PHASE...   on the machine with the GPU, with build-carry/ in the repository
# parity    builds the CUDA tests and runs them: every op against its CPU twin, fresh inputs, poisoned outputs
# sanitize  the same tests under compute-sanitizer: memcheck, racecheck, initcheck, synccheck
# nccl      NCCL on ranks that are processes and share the GPU: every collective on 1, 2 and 4, then training on 1, 2 and
#           4 with experts on 1, 2 and 4 of them, whose losses have to agree; built without MPI, so that the program forks the ranks itself
# bench     a step of configs/bench_h200.json, with one layer, with one and a capacity, whole, and with its routing forced to
#           be uniform; the ops of one layer, and the experts' products in each way there is; then what the GPU and PyTorch
#           with transformers' own model reach (scripts/gpu_facts.py)
# With --emulated the same on an emulated device, sanitize with its access checker; a build for no GPU.
# Ends with one table, also in $OUT/table.txt (build-gpu/out without OUT); a log per phase lies beside it.
set -euo pipefail
export TEST_SEED=${TEST_SEED:-random}  # fresh inputs; the log has the number that repeats them
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$root"

carry=build-carry
phase_seconds=480

usage() {
  complain "usage: scripts/gpu_check.sh pack | [--emulated] PHASE..., with the phases parity, sanitize, nccl and bench"
  exit 2
}

# Headers, libraries and their descriptions, found again through PKG_CONFIG_PATH wherever they are put.
pack() {
  local name
  rm -rf "$carry"
  mkdir -p "$carry"/{include,lib,pkgconfig}
  cp -r /usr/include/doctest /usr/include/CLI /usr/include/nlohmann /usr/include/openssl "$carry/include"
  cp /usr/include/{xxhash,zlib,zconf,zstd,zstd_errors}.h "$carry/include"
  cp "/usr/include/$(gcc -print-multiarch)"/openssl/* "$carry/include/openssl"
  for name in libcrypto libxxhash libz libzstd; do cp -L "$(gcc -print-file-name="$name.so")" "$carry/lib/"; done
  cp "$carry/lib/libcrypto.so" "$carry/lib/libcrypto.so.3"
  cp "$carry/lib/libxxhash.so" "$carry/lib/libxxhash.so.0"
  cp "$carry/lib/libz.so" "$carry/lib/libz.so.1"
  cp "$carry/lib/libzstd.so" "$carry/lib/libzstd.so.1"
  # shellcheck disable=SC2016 # pkg-config replaces prefix
  for name in nlohmann_json CLI11 libcrypto libxxhash zlib libzstd; do
    printf '%s\n' 'prefix=${pcfiledir}/..' "Name: $name" "Description: carried along" \
      "Version: $(pkg-config --modversion "$name")" 'Cflags: -I${prefix}/include' >"$carry/pkgconfig/$name.pc"
  done
  for name in crypto xxhash zstd z; do
    # shellcheck disable=SC2016
    printf 'Libs: -L${prefix}/lib -Wl,-rpath,${prefix}/lib -l%s\n' "$name" >>"$carry/pkgconfig/lib$name.pc"
  done
  cat "$carry/pkgconfig/libz.pc" >>"$carry/pkgconfig/zlib.pc"
  rm "$carry/pkgconfig/libz.pc"
  pack_cudnn_frontend
  say "$carry: $(du -sh "$carry" | cut -f 1); take it along with the repository"
}

# The headers of cuDNN's graphs, which its packages lack: from CUDNN_FRONTEND_INCLUDE, or where the compiler finds them.
pack_cudnn_frontend() {
  local from=${CUDNN_FRONTEND_INCLUDE:-}
  if [[ -z $from ]]; then
    from=$(echo '#include <cudnn_frontend_version.h>' | g++ -x c++ -M - 2>/dev/null |
      grep -o '[^ ]*/cudnn_frontend_version\.h' | head -n 1 | xargs -r dirname || true)
  fi
  if [[ -z $from ]]; then
    say "no cudnn-frontend headers here, so no attention by cuDNN there: CUDNN_FRONTEND_INCLUDE names their folder"
  elif [[ -f $from/cudnn_frontend.h ]]; then
    cp -r "$from"/cudnn_* "$carry/include"
  else
    complain "$from has no cudnn_frontend.h; CUDNN_FRONTEND_INCLUDE names the folder that has it"
    exit 2
  fi
}

use_carried() {
  [[ -d $carry ]] || return 0
  export PKG_CONFIG_PATH="$root/$carry/pkgconfig" CPATH="$root/$carry/include"
}

need() {
  command -v "$1" >/dev/null || { complain "$1 is missing on this machine: $2" && exit 4; }
}

# A line of the table: what, verdict, seconds, note.
line() { printf '%-44s %-8s %6s s  %s\n' "$@" >>"$out/table.txt"; }

# Runs a program within what the phase has left; its output goes to the log, its verdict to the table.
check() {
  local name=$1 log=$2 start=$SECONDS code=0 verdict=ok note=""
  shift 2
  {
    echo "== $name"
    timeout "$((deadline > SECONDS ? deadline - SECONDS : 1))" "$@"
  } >>"$log" 2>&1 || code=$?
  case $code in
    0) note=$(tac "$log" | sed "/^== /q" | grep -o '[0-9]* tokens/s.*' | tail -n 1) || true ;;
    77) verdict=SKIP note=$(grep '^skipped: ' "$log" | tail -n 1) ;;
    124) verdict=FAILED note="the phase has $phase_seconds s" && failed=1 ;;
    *) verdict=FAILED note="code $code, see $(basename "$log")" && failed=1 ;;
  esac
  line "$name" "$verdict" "$((SECONDS - start))" "$note"
}

# build LOG TARGET...
build() {
  local log=$1
  shift
  need meson "it builds"
  need ninja "it builds"
  if [[ $cuda == enabled ]]; then
    PATH=$PATH:/usr/local/cuda/bin
    need nvcc "it comes with CUDA 13"
  fi
  configure "$folder" -Dcuda="$cuda" -Dgpu_arch="${GPU_ARCH:-90}" -Dmpi=disabled >>"$log" 2>&1 || return
  check "build $*" "$log" ninja -k 0 -C "$folder" "$@"
}

# Names of the tests' executables; the emulated device's checked ones belong to the other phase.
test_names() {
  find "$folder/tests" -maxdepth 1 -type f -executable -name '*_test*' ! -name '*_checked' -printf '%f\n' |
    grep -E '(_cuda|^emulation)_test$' | sort
}

parity() {
  local name log="$out/parity.log"
  build "$log" cuda_tests
  for name in $(test_names); do check "parity $name" "$log" "$folder/tests/$name"; done
}

sanitize() {
  local name tool log="$out/sanitize.log"
  build "$log" cuda_tests
  for name in $(test_names); do
    if [[ $cuda == emulated ]]; then
      check "access checker $name" "$log" "$folder/tests/${name}_checked"
    else
      need compute-sanitizer "it comes with CUDA 13"
      for tool in memcheck racecheck initcheck synccheck; do
        check "$tool $name" "$log" compute-sanitizer --tool "$tool" --error-exitcode 3 "$folder/tests/$name"
      done
    fi
  done
}

# train_on BUILD RANKS EP_SIZE: the loss and the digest of a short run go to a file; one rank goes the way it always goes.
train_on() {
  local program=$1/switchyard ranks=$2 ep_size=$3 to=$1/nccl/$2x$3 how=()
  [[ $ranks == 1 ]] || how=(--transport nccl --share-gpu --ranks "$ranks")
  "$program" train "$1/nccl/tiny.json" --device cuda --set parallel.ep_size="$ep_size" --steps 20 --json \
    --resume never --run-dir "$(mktemp -d)/run" "${how[@]}" >"$to" || return
  grep -o '"loss":[^,]*' "$to" | tail -n 1 | cut -d : -f 2 >"$to.loss"
  grep -o '"digest":[^,]*' "$to" | tail -n 1 >"$to.digest"
}

# On a GPU the kernels of products, and so the order of their sums, may follow the number of rows: what is asked for is
# the loss, and whether the bits are the same is said.
compare_training() {
  local layout=$2x$3 log=$1/nccl
  train_on "$@" || return
  if cmp -s "$log/1x1.digest" "$log/$layout.digest"; then echo "the digest of one rank"; else echo "another digest"; fi
  paste "$log/1x1.loss" "$log/$layout.loss" | tee /dev/stderr |
    awk '{ d = $1 - $2; exit !(d < 1e-3 * $1 && d > -1e-3 * $1) }'
}

nccl() {
  local ranks ep_size name log="$out/nccl.log"
  build "$log" cuda_tests
  if [[ $cuda == emulated ]]; then
    for name in nccl_group_cuda_test nccl_training_cuda_test; do check "nccl $name" "$log" "$folder/tests/$name"; done
    return
  fi
  for ranks in 1 2 4; do check "nccl $ranks ranks" "$log" "$folder/tests/nccl_ranks_test" "$ranks"; done
  build "$log" switchyard
  check "bench moe on 1 rank" "$log" "$folder/switchyard" bench moe --device cuda
  for ranks in 2 4; do
    for name in moe comm; do
      check "bench $name on $ranks ranks" "$log" "$folder/switchyard" bench "$name" --device cuda --transport nccl \
        --share-gpu --ranks "$ranks"
    done
  done
  mkdir -p "$folder/nccl"
  cp configs/tiny.json "$folder/nccl/tiny.json"
  seq 400 | awk '{ print "line " $1 " of a text in which " $1 * 7 % 13 " follows " $1 * 7 % 12 " and so on" }' \
    >"$folder/nccl/tiny.txt"
  export -f train_on compare_training
  check "nccl training on 1 rank" "$log" bash -c "train_on $folder 1 1"
  for ranks in 2 4; do
    for ep_size in 1 2 4; do
      ((ep_size <= ranks)) || continue
      check "nccl training on $ranks ranks, ep_size $ep_size" "$log" bash -c "compare_training $folder $ranks $ep_size"
    done
  done
}

bench() {
  local log="$out/bench.log" config=configs/bench_h200.json
  if [[ $cuda == emulated ]]; then
    line "bench" SKIP 0 "an emulated device says nothing of speed"
    return
  fi
  build "$log" switchyard
  local step=("$folder/switchyard" bench step "$config" --device cuda --steps 3)
  check "bench step, one layer" "$log" "${step[@]}" --set model.num_hidden_layers=1 --set train.batch_tokens=32768
  check "bench step, one layer, a capacity" "$log" "${step[@]}" --set model.num_hidden_layers=1 \
    --set train.batch_tokens=32768 --set model.router.capacity_factor=1.25
  check "bench step" "$log" "${step[@]}"
  check "bench step, uniform routing" "$log" "${step[@]}" --set model.router.force=uniform
  check "bench ops, one layer" "$log" "$folder/switchyard" bench ops "$config" --device cuda --seconds 12 \
    --set model.num_hidden_layers=1
  sed -n '/^grouped products/,/^$/p' "$log" >>"$out/table.txt"
  check "what GPU and PyTorch reach" "$log" python3 scripts/gpu_facts.py --model-seconds 150
}

[[ $# -ge 1 ]] || usage
if [[ $1 == pack ]]; then
  [[ $# == 1 ]] || usage
  pack
  exit
fi
cuda=enabled folder=build-gpu
if [[ $1 == --emulated ]]; then
  cuda=emulated folder=build-gpu-emulated
  shift
fi
[[ $# -ge 1 ]] || usage
for phase in "$@"; do [[ $phase =~ ^(parity|sanitize|nccl|bench)$ ]] || usage; done

out=${OUT:-$root/$folder/out}
mkdir -p "$out"
rm -f "$out"/{table.txt,parity.log,sanitize.log,nccl.log,bench.log}
failed=0
use_carried
if [[ $cuda == emulated ]]; then
  line "emulated device, no GPU" "" 0 "says nothing of speed"
elif command -v nvidia-smi >/dev/null; then
  line "$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -n 1)" "" 0 ""
fi
for phase in "$@"; do
  deadline=$((SECONDS + phase_seconds))
  "$phase" || failed=1
done
say
cat "$out/table.txt"
[[ $failed == 0 ]]
