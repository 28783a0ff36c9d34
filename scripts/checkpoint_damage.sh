#!/bin/bash
# Damages a checkpoint in every way that tests/engine/checkpoint/damage_test.cpp knows, 100,000 flipped bits among them,
# and writes the table of what was found.
#   scripts/checkpoint_damage.sh DAMAGE_TEST
set -euo pipefail
test_program=$(realpath "$1")
cd "$(dirname "$0")/.."
rows=$(mktemp)
trap 'rm -f "$rows"' EXIT
DAMAGE_FLIPS=100000 DAMAGE_RESULTS=$rows "$test_program"
{
  echo "# Damage to checkpoints"
  echo
  echo "$(date +%F), commit $(git rev-parse --short HEAD), \`scripts/checkpoint_damage.sh build-test/tests/damage_test\`: a checkpoint of"
  echo "two ranks, damaged in one place at a time and verified. Found means that the damage is reported with the file's name."
  echo
  echo "| damage | cases | found |"
  echo "|---|---|---|"
  cat "$rows"
} >tests/results/checkpoint_damage.md
