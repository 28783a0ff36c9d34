#!/usr/bin/env python3
"""Holds what a formatter cannot: short files, and no path of somebody's own machine.

usage: check_style.py [ROOT]
"""

import os
import re
import sys

from source_tree import read_lines, report, repository_root, source_files

MAX_LINES = 600
SOURCE = re.compile(r"(\.(h|cpp|cu|cuh|py|sh|md)|meson\.build)$")
BINARY = re.compile(r"\.(png|gz|zst|bin|safetensors)$")
MACHINE_PATH = re.compile(r"(?<![\w.$}*-])/(work|root|home/\w+)/")


def check_tree(root):
    files = source_files(root)
    problems = []
    for path in files:
        if BINARY.search(path):
            continue
        lines = read_lines(root, path)
        if SOURCE.search(path) and len(lines) > MAX_LINES:
            problems.append(f"{path}:{MAX_LINES + 1}: the file has {len(lines)} lines but at most {MAX_LINES}: divide it")
        for number, line in enumerate(lines, 1):
            if match := MACHINE_PATH.search(line):
                problems.append(f"{path}:{number}: names {match[0]}, a path of one machine: name it from the root")
    return problems, f"{len(files)} files"


if __name__ == "__main__":
    tree = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else repository_root()
    sys.exit(report("check_style", *check_tree(tree)))
