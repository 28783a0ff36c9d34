#!/usr/bin/env python3
"""Every mistake ends with the right exit code, one message that says what to do, and nothing left behind.

The messages are kept in bad_input.txt; --update writes them anew, to be read before they are committed.

usage: bad_input_test.py SWITCHYARD REPOSITORY [--update]
"""

import difflib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile

import bad_input_cases as cases

SWITCHYARD, ROOT = os.path.abspath(sys.argv[1]), sys.argv[2]
GOLDEN = os.path.join(ROOT, "tests/tools/bad_input.txt")
NOBODY = 65534


def drop_rights():
    """Root may read everything: permissions are tested as somebody else."""
    if os.getuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def run(directory, arguments):
    return subprocess.run([SWITCHYARD, *arguments], cwd=directory, capture_output=True, text=True, errors="replace",
                          stdin=subprocess.DEVNULL, preexec_fn=drop_rights, timeout=60)


def tree(directory):
    """Every path below a directory with its size and time of change."""
    found = {}
    for place, directories, files in os.walk(directory):
        for name in directories + files:
            path = os.path.join(place, name)
            status = os.lstat(path)
            size = 0 if name == "LOCK" else status.st_size  # it names its owner's process
            found[os.path.relpath(path, directory)] = size if name in files else "directory"
    return found


def prepare(directory, preparation, trained):
    os.mkdir(directory)
    if callable(preparation):
        preparation(directory)
    else:
        files = dict(preparation)
        spoil = files.pop("RUN", None)
        cases.write_all(directory, files)
        if spoil:
            shutil.copytree(trained, os.path.join(directory, "run"))
            spoil(os.path.join(directory, "run"))
    if os.getuid() == 0:
        subprocess.run(["chown", "-R", "-h", f"{NOBODY}:{NOBODY}", directory], check=True)


def message_of(result, directory):
    """What is printed for people, with the directory's name taken out."""
    return re.sub(r"[ \t]+$", "", result.stderr.replace(directory, "DIRECTORY"), flags=re.MULTILINE).rstrip("\n")


def check(name, code, result, before, after):
    problems = []
    if result.returncode != code:
        problems.append(f"exit {result.returncode} but {code} is right")
    lines = result.stderr.rstrip("\n").split("\n")
    if len([line for line in lines if line.startswith("error: ")]) != 1:
        problems.append("there is not exactly one error message")
    if not lines[-1].endswith(f"(exit {code})"):
        problems.append("the message does not end with the exit code")
    if result.stdout and code != 7:
        problems.append(f"stdout has {result.stdout[:60]!r}")
    if before != after:
        problems.append(f"left behind: {sorted(set(before.items()) ^ set(after.items()))}")
    return [f"{name}: {problem}" for problem in problems]


def cut_everywhere(place):
    """A config cut after any byte is refused, with one message."""
    text = cases.GOOD.encode().rstrip()
    problems = []
    for length in range(len(text)):
        with open(os.path.join(place, "cut.json"), "wb") as out:
            out.write(text[:length])
        result = run(place, ["config", "check", "cut.json"])
        if result.returncode != 2 or "cut.json:" not in result.stderr or "not valid JSON" not in result.stderr:
            problems.append(f"cut after {length} bytes: exit {result.returncode}, {result.stderr[:200]!r}")
    return problems


def full_disk(place):
    """No file may grow beyond a limit, as on a full disk: training ends with exit 4 and leaves no half checkpoint."""
    directory = os.path.join(place, "full")
    prepare(directory, {"c.json": cases.GOOD, "text.txt": cases.TEXT}, None)

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000))
        drop_rights()

    result = subprocess.run([SWITCHYARD, "train", "c.json", "--run-dir", "run"], cwd=directory, capture_output=True,
                            text=True, preexec_fn=limit, timeout=60)
    problems = [f"full disk: {problem}" for problem in ("File too large", "(exit 4)") if problem not in result.stderr]
    if result.returncode != 4 or problems:
        problems.append(f"full disk: exit {result.returncode}, {result.stderr[-300:]!r}")
    left = os.path.join(directory, "run/checkpoints")
    whole = [name for name in (os.listdir(left) if os.path.exists(left) else []) if name.startswith("step-")]
    problems += [f"full disk: {name} was left" for name in whole]
    again = run(directory, ["train", "c.json", "--run-dir", "run"])  # once there is room
    if again.returncode != 0 or os.listdir(left) != ["step-00000003"]:
        problems.append(f"after a full disk: exit {again.returncode}, {os.listdir(left)}, {again.stderr[-300:]!r}")
    with open("/dev/full", "w") as full:
        result = subprocess.run([SWITCHYARD, "config", "show", "c.json"], cwd=directory, stdout=full,
                                stderr=subprocess.PIPE, text=True)
    if result.returncode != 4 or "cannot write the result: No space left on device" not in result.stderr:
        problems.append(f"full stdout: exit {result.returncode}, {result.stderr!r}")
    return problems


def full_file_system(place):
    """A file system of its own that is too small: likewise, and what was there before is untouched."""
    directory = os.path.join(place, "small")
    os.mkdir(directory)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k,mode=777", "none", directory], capture_output=True)
    if mounted.returncode != 0:
        print("skipped: no file system may be mounted here, so a full disk is only a limit on the size of files")
        return []
    try:
        cases.write_all(directory, {"c.json": cases.GOOD, "text.txt": cases.TEXT})
        before = tree(directory)
        result = run(directory, ["train", "c.json", "--run-dir", "run"])
        problems = []
        errors = [line for line in result.stderr.split("\n") if line.startswith("error: ")]
        if result.returncode != 4 or len(errors) != 1 or not errors[0].endswith("(exit 4)"):
            problems.append(f"full tmpfs: exit {result.returncode}, {result.stderr[-300:]!r}")
        after = tree(directory)
        problems += [f"full tmpfs: {name} was left" for name in after if "step-" in name and not after[name] == "directory"]
        if any(after.get(name) != size for name, size in before.items()):
            problems.append("full tmpfs: what was there before has changed")
        return problems
    finally:
        subprocess.run(["umount", directory], check=True)


def main(place):
    os.chmod(place, 0o777)
    prepare(os.path.join(place, "first"), {"c.json": cases.GOOD, "text.txt": cases.TEXT}, None)
    result = run(os.path.join(place, "first"), ["train", "c.json", "--run-dir", "run"])
    assert result.returncode == 0, result.stderr
    problems, messages, names = [], [], set()
    for number, (name, code, preparation, arguments) in enumerate(cases.CASES):
        assert name not in names, name
        names.add(name)
        directory = os.path.join(place, str(number))
        prepare(directory, preparation, os.path.join(place, "first/run"))
        before = tree(directory)
        result = run(directory, arguments)
        problems += check(name, code, result, before, tree(directory))
        messages.append(f"== {name}\n{message_of(result, directory)}\n")
    problems += cut_everywhere(os.path.join(place, "first"))
    problems += full_disk(place)
    problems += full_file_system(place)
    text = "\n".join(messages)
    if "--update" in sys.argv:
        with open(GOLDEN, "w", encoding="utf-8") as out:
            out.write(text)
    with open(GOLDEN, encoding="utf-8") as golden:
        expected = golden.read()
    problems += [line for line in difflib.unified_diff(expected.split("\n"), text.split("\n"), "bad_input.txt", "now",
                                                       lineterm="", n=2)]
    print("\n".join(problems) if problems else f"{len(cases.CASES)} mistakes end as they should")
    return 1 if problems else 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(main(temporary))
