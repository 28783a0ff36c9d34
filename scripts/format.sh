#!/bin/bash
# Formats the C++ files, or with --check says which are not; clang-format 14, since versions differ in what they do.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$root"

tool=$(command -v clang-format-14 || command -v clang-format || true)
if [[ -z $tool ]] || ! "$tool" --version | grep -q 'version 14\.'; then
  say "skipped: clang-format 14 is not installed (apt-get install clang-format-14)"
  exit 77
fi
files=$(python3 -c 'import sys; sys.path.insert(0, "scripts"); import source_tree
print("\n".join(source_tree.source_files(".", r"\.(h|cpp|cu|cuh)$")))')
if [[ ${1:-} == --check ]]; then
  xargs "$tool" --dry-run --Werror <<<"$files"
  say "format: $(wc -l <<<"$files") files"
else
  xargs "$tool" -i <<<"$files"
fi
