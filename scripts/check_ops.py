#!/usr/bin/env python3
"""Holds the form of an op: every file of it is there, and every forward has a backward.

usage: check_ops.py [ROOT]

An op is a header with a KERNEL: x.h, x.cpp (checks and dispatch), x_cpu.cpp, x_cuda.cu, and x_test.cpp under tests.
"""

import os
import re
import sys

from source_tree import read_lines, report, repository_root, source_files

FOLDERS = ("engine/ops/", "attention/", "moe/")

# Ops without a GPU kernel so far. Whoever writes one takes its line away.
NO_CUDA = [
    "engine/ops/fma_peak",
    "engine/ops/read_rate",
]

# Forward functions that need no gradient.
NO_BACKWARD = []


def check_op(op, files, text, no_cuda, no_backward):
    problems = []
    for expected in (op + ".cpp", op + "_cpu.cpp", "tests/" + op + "_test.cpp"):
        if expected not in files:
            problems.append(f"{op}.h:1: the op has no {expected}: add it")
    has_cuda = op + "_cuda.cu" in files
    if has_cuda and op in no_cuda:
        problems.append(f"{op}_cuda.cu:1: the op is listed in NO_CUDA of check_ops.py: take it off the list")
    if not has_cuda and op not in no_cuda:
        problems.append(f"{op}.h:1: the op has no {op}_cuda.cu: add it, or the op to NO_CUDA of check_ops.py")
    functions = set(re.findall(r"\bvoid (\w+)\(", text))
    for forward in sorted(name for name in functions if name.endswith("_forward")):
        backward = forward.removesuffix("_forward") + "_backward"
        if forward not in no_backward and not any(name.startswith(backward) for name in functions):
            problems.append(f"{op}.h:1: {forward} has no {backward}: add it, or the function to NO_BACKWARD")
    return problems


def check_tree(root, no_cuda, no_backward):
    files = set(source_files(root, r"\.(h|cpp|cu)$"))
    ops, problems = [], []
    for header in sorted(path for path in files if path.startswith(FOLDERS) and path.endswith(".h")):
        text = "\n".join(read_lines(root, header))
        if not re.search(r"^KERNEL\(", text, re.MULTILINE):
            continue
        ops.append(header.removesuffix(".h"))
        problems += check_op(ops[-1], files, text, no_cuda, no_backward)
    for op in no_cuda:
        if op not in ops:
            problems.append(f"scripts/check_ops.py:1: NO_CUDA names {op}, which is no op: take it off the list")
    return problems, f"{len(ops)} ops are complete, {len(ops) - len(no_cuda)} of them with a GPU kernel"


if __name__ == "__main__":
    tree = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else repository_root()
    sys.exit(report("check_ops", *check_tree(tree, NO_CUDA, NO_BACKWARD)))
