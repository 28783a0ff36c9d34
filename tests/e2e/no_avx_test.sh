#!/bin/bash
# A processor without AVX, emulated, computes the same bits: the digest of a run there is that of a run here.
# usage: no_avx_test.sh SWITCHYARD REPOSITORY
set -euo pipefail
switchyard=$1
root=$2
if ! command -v qemu-x86_64 >/dev/null; then
  echo "skipped: qemu-x86_64 is not installed (apt-get install qemu-user)"
  exit 77
fi
if grep -q __asan_init "$switchyard"; then
  echo "skipped: a program with the address sanitizer does not run in qemu-x86_64"
  exit 77
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
for i in $(seq 1 200); do echo "line $i of a text in which $((i * 7 % 13)) follows $((i * 7 % 12)) and so on"; done >tiny.txt
cp "$root/configs/tiny.json" tiny.json

digest_of() { python3 -c 'import json, sys; print(json.load(sys.stdin)["digest"])'; }
options=(train tiny.json --steps "${STEPS:-2}" --threads 1 --json --set data.held_out.fraction=0)
here=$("$switchyard" "${options[@]}" --run-dir here 2>here.log | tail -n 1 | digest_of)
there=$(qemu-x86_64 -cpu Nehalem "$switchyard" "${options[@]}" --run-dir there 2>there.log | tail -n 1 | digest_of)
grep -q "cpu portable" there.log || { echo "FAILED: the emulated processor was not taken for one without AVX"; cat there.log; exit 1; }
[[ $here == "$there" ]] || { echo "FAILED: digest $there without AVX, but $here with $(grep -o 'cpu [a-z0-9]*' here.log)"; exit 1; }
echo "digest $here on both; $(grep -o 'cpu [a-z0-9]*' here.log) and portable under qemu"
