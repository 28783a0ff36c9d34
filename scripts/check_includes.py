#!/usr/bin/env python3
"""Holds the include order: which folder may include which, and which libraries belong where.

usage: check_includes.py [ROOT]
"""

import os
import re
import sys

from source_tree import read_lines, report, repository_root, source_files

# Each folder and the folders it may include, its own always; the order of the lines is the order of the levels.
FLOOR = ["engine/core"]
LAYERS = FLOOR + ["engine/ops", "engine/config", "engine/nn"]
MODEL = LAYERS + ["comm", "attention", "moe"]
BESIDE_MODEL = FLOOR + ["engine/config", "engine/nn", "comm"]
TRAIN = MODEL + ["engine/model", "engine/data", "engine/checkpoint", "engine/huggingface"]
MAY_INCLUDE = {
    "engine/core": [],
    "comm": FLOOR,
    "engine/ops": FLOOR,
    "engine/config": FLOOR,
    "engine/nn": FLOOR + ["engine/ops", "engine/config"],
    "attention": LAYERS,
    "moe": LAYERS + ["comm"],
    "engine/model": MODEL,
    "engine/data": BESIDE_MODEL,
    "engine/checkpoint": BESIDE_MODEL,
    "engine/huggingface": BESIDE_MODEL + ["engine/checkpoint"],
    "engine/train": TRAIN,
    "tools": TRAIN + ["engine/train"],
}

# Libraries, by the beginning of the header's name, and the files that may include them; tests may include any.
LIBRARIES = [
    ("MPI", r"mpi(-ext)?\.h$", r"^comm/"),
    ("NCCL", r"nccl", r"^comm/"),
    ("CUDA", r"(cuda|cublas|cub/|thrust/|cooperative_groups|nvtx)", r"(\.cu$|cuda|engine/core/device\.|comm/(world|nccl))"),
    ("CLI11", r"CLI/", r"^tools/"),
    ("JSON", r"nlohmann/", r"^(engine/(config|checkpoint|data|huggingface|train)|tools)/"),
    ("doctest", r"doctest", r"^tests/"),
]
INCLUDE = re.compile(r'\s*#\s*include\s*([<"])([^">]+)[">]')


def folder_of(path):
    """The folder that has a level: two names under engine, one elsewhere."""
    parts = path.split("/")
    return "/".join(parts[:2] if parts[0] == "engine" else parts[:1])


def check_line(path, included, quoted, files):
    """What is wrong with one include of a file outside tests, or None."""
    for library, header, allowed in LIBRARIES:
        if re.match(header, included) and not re.search(allowed, path):
            return f"includes {included}, but {library} headers belong to files like {allowed}"
    target = folder_of(included)
    if not quoted:
        return f'includes <{included}>, but our own headers are included with "..."' if target in MAY_INCLUDE else None
    if included not in files:
        return f'includes "{included}", which is not in the tree: our headers are named from the root, others in <...>'
    source = folder_of(path)
    if target == source or target in MAY_INCLUDE[source]:
        return None
    if target not in MAY_INCLUDE:
        return f"includes {included}, but only tests may include {target}/"
    allowed = ", ".join(MAY_INCLUDE[source]) or "nothing but itself"
    return f"{source} includes {included}, but may include only: {allowed}"


def find_cycle(graph):
    """A list of headers that include each other in a ring, or None."""
    done, active = set(), []

    def visit(node):
        if node in active:
            return active[active.index(node):] + [node]
        if node in done:
            return None
        active.append(node)
        for target in graph.get(node, []):
            if ring := visit(target):
                return ring
        active.pop()
        done.add(node)
        return None

    return next((ring for node in graph if (ring := visit(node))), None)


def check_tree(root):
    files = set(source_files(root, r"\.(h|cpp|cu|cuh)$"))
    problems, graph, count = [], {}, 0
    for path in sorted(files):
        tested = path.startswith("tests/")
        if not tested and folder_of(path) not in MAY_INCLUDE:
            problems.append(f"{path}:1: {folder_of(path)} has no level: add it to MAY_INCLUDE of check_includes.py")
            continue
        for number, line in enumerate(read_lines(root, path), 1):
            if not (match := INCLUDE.match(line)):
                continue
            count += 1
            quoted, included = match[1] == '"', match[2]
            if included in files:
                graph.setdefault(path, []).append(included)
            if not tested and (problem := check_line(path, included, quoted, files)):
                problems.append(f"{path}:{number}: {problem}")
    if ring := find_cycle(graph):
        problems.append(f"{ring[0]}:1: headers include each other in a ring: {' -> '.join(ring)}")
    return problems, f"{count} includes of {len(files)} files keep the order"


if __name__ == "__main__":
    tree = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else repository_root()
    sys.exit(report("check_includes", *check_tree(tree)))
