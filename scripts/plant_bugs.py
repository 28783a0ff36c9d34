#!/usr/bin/env python3
"""Plants the bugs of tests/planted_bugs.txt one at a time in a copy of the repository; each must fail its test.

usage: plant_bugs.py [--build DIRECTORY] [--emulated-build DIRECTORY] [--sample N] [--only LIST] [--results FILE]

--build      a build directory of the repository to go on from, up to date (default: everything is built anew)
--emulated-build  the same with -Dcuda=emulated, for tests called x_cuda_test
--sample N   every so many-th bug so that about N are planted (default: all)
--only LIST  bugs whose file or test contains one of these, comma-separated
--results    also writes the table to FILE, with date and commit

Exit 0 if every bug was found, 1 otherwise. A bug that no longer fits the source is an error, too, and so is a test that
fails without any bug.
"""

import argparse
import datetime
import os
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# A bug may leave a variable unused, or code at which GCC guesses wrong what it reads: errors in a build with -Werror. The
# warnings are named one by one, since GCC takes no notice of a pragma for the group -Wunused.
UNWARNED = "".join(f'#pragma GCC diagnostic ignored "-W{warning}"\n' for warning in (
    "unused-variable", "unused-but-set-variable", "unused-parameter", "unused-function", "array-bounds",
    "stringop-overread")) + "#line 1\n"


def read_bugs():
    bugs = []
    with open(os.path.join(ROOT, "tests/planted_bugs.txt"), encoding="utf-8") as file:
        blocks = file.read().split("\n\n")
    for block in blocks:
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        if not lines:
            continue
        if len(lines) != 4:
            sys.exit(f"tests/planted_bugs.txt: a block has {len(lines)} lines, but should have 4:\n{block}")
        path, before, after, test = lines[0], lines[1][2:], lines[2][2:], lines[3][2:]
        name, what = test.split(":", 1)
        bugs.append({"path": path, "before": before, "after": after, "test": name, "what": what.strip()})
    return bugs


def times_in_source(bug, root=ROOT):
    with open(os.path.join(root, bug["path"]), encoding="utf-8") as file:
        return file.read().count(bug["before"])


def run(command, cwd):
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, "DATA": cwd}, timeout=1800)


def copy_repository(builds, copy):
    """With the build directories, whose paths are relative: what is built is up to date there, too. `builds`: for each
    kind of CUDA the one to go on from, or None."""
    kept = {cuda: os.path.relpath(build, ROOT) for cuda, build in builds.items() if build}
    shutil.copytree(ROOT, copy, ignore=lambda directory, names: [
        name for name in names if name in (".git", "runs") or
        name.startswith("build") and directory == ROOT and name not in kept.values()])
    for cuda, build in kept.items():
        os.rename(os.path.join(copy, build), os.path.join(copy, f"bugs-{cuda}"))


def build_directory(test, copy):
    """Where a test is built: one on a device is built for an emulated one. Set up if it is not there yet."""
    cuda = "emulated" if test.endswith("_cuda_test") else "disabled"
    directory = f"bugs-{cuda}"
    if not os.path.exists(os.path.join(copy, directory)):
        setup = run(["meson", "setup", directory, f"-Dcuda={cuda}", "-Doptimization=1"], copy)
        if setup.returncode != 0:
            sys.exit(setup.stdout)
    return directory


def passes(test, copy):
    """Builds a unit test, or the program for a test of commands (x.py), and runs it; None, and the first error, if it
    does not compile."""
    script = os.path.join(copy, "tests", "tools", test)
    of_commands = test.endswith(".py")
    target = "switchyard" if of_commands else f"tests/{test}"
    directory = build_directory(test, copy)
    build = run(["ninja", "-C", directory, target], copy)
    if build.returncode != 0:
        print(next((line for line in build.stdout.splitlines() if " error: " in line), build.stdout))
        return None
    program = os.path.join(directory, target)
    return run(["python3", "-B", script, program, copy] if of_commands else [program], copy).returncode == 0


def verdict_of(bug, copy, sound):
    """Plants the bug, builds its test and runs it: found, SURVIVED, or what went wrong. `sound`: tests seen to pass."""
    if bug["test"] not in sound and not passes(bug["test"], copy):
        return "FAILS WITHOUT IT"
    sound.add(bug["test"])
    if times_in_source(bug, copy) != 1:
        return f"DOES NOT FIT: the source has the line {times_in_source(bug, copy)} times"
    path = os.path.join(copy, bug["path"])
    with open(path, encoding="utf-8") as file:
        text = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write(UNWARNED + text.replace(bug["before"], bug["after"]))
    try:
        verdict = passes(bug["test"], copy)
        return "DOES NOT COMPILE" if verdict is None else "SURVIVED" if verdict else "found"
    except subprocess.TimeoutExpired:
        return "found (the test hung)"
    finally:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build")
    parser.add_argument("--emulated-build")
    parser.add_argument("--sample", type=int)
    parser.add_argument("--only", default="")
    parser.add_argument("--results")
    options = parser.parse_args()
    wanted = options.only.split(",")
    bugs = [bug for bug in read_bugs() if any(part in bug["path"] or part in bug["test"] for part in wanted)]
    if options.sample and len(bugs) > options.sample:
        bugs = bugs[:: len(bugs) // options.sample]
    rows, sound = [], set()
    with tempfile.TemporaryDirectory() as temporary:
        copy = os.path.join(temporary, "switchyard")
        copy_repository({"disabled": options.build, "emulated": options.emulated_build}, copy)
        for bug in bugs:
            verdict = verdict_of(bug, copy, sound)
            rows.append((bug["path"], bug["what"], bug["test"], verdict))
            print(f"{verdict:12} {bug['path']}: {bug['what']} ({bug['test']})", flush=True)
    found = sum(row[3].startswith("found") for row in rows)
    print(f"{found} of {len(rows)} planted bugs were found")
    if options.results:
        commit = run(["git", "rev-parse", "--short", "HEAD"], ROOT).stdout.strip()
        with open(options.results, "w", encoding="utf-8") as file:
            file.write("# Planted bugs\n\n")
            file.write(f"{datetime.date.today()}, commit {commit}, `scripts/plant_bugs.py`: {found} of {len(rows)} found.\n\n")
            file.write("| file | bug | test | result |\n|---|---|---|---|\n")
            for row in rows:
                file.write("| " + " | ".join(row) + " |\n")
    sys.exit(0 if found == len(rows) else 1)


if __name__ == "__main__":
    main()
