#!/usr/bin/env python3
"""What a newcomer meets first: `config init`, `doctor`, help, the manual page and `completion`.

usage: setup_test.py SWITCHYARD REPOSITORY
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile

SWITCHYARD = os.path.abspath(sys.argv[1])
NOBODY = 65534


def run(*arguments, code=0, **options):
    result = subprocess.run([SWITCHYARD, *arguments], capture_output=True, text=True, **options)
    assert result.returncode == code, (arguments, result.returncode, result.stdout, result.stderr)
    return result


def test_init():
    """A config from nothing but a path trains, wherever it is written, and each key is explained."""
    rng = random.Random(1)
    os.makedirs("texts/inner")
    os.makedirs("configs")
    for i in range(60):
        with open(f"texts/inner/{i}.txt", "w") as out:
            out.write(" ".join(f"word{rng.randrange(3000)}" for _ in range(400)))
    with open("one.txt", "w") as out:
        out.write("a line of text\n" * 1000)
    for number, (text, output, split) in enumerate([("texts", "configs/a.json", "groups"), ("one.txt", "b.json", "tail"),
                                                    ("texts/**/*.txt", "configs/c.json", "groups"),
                                                    (os.path.abspath("one.txt"), "configs/d.json", "tail")]):
        assert run("config", "init", text, "-o", output).stdout == output + "\n"
        written = open(output).read()
        lines = [line for line in written.split("\n") if re.match(r'\s*"', line) and not line.rstrip().endswith(("{", "[{"))]
        assert len(lines) > 20 and all("  // " in line for line in lines), written
        assert json.loads(re.sub(r"(?m)^\s*//.*$|  //.*$", "", written))["data"]["held_out"]["split"] == split, written
        run("config", "check", output)
        run("train", output, "--run-dir", f"run{number}", "--steps", "2", "--set", "optim.warmup=0")
        sets = json.loads(run("data", "inspect", output, "--json").stdout)["sets"]
        assert split == "tail" or sum(s["documents"] for s in sets) == 60, sets
    assert run("config", "init", "one.txt").stdout == "switchyard.json\n"
    small = json.loads(run("config", "show", "b.json").stdout)
    large = json.loads(run("config", "show", "configs/a.json").stdout)
    assert (small["model"]["hidden_size"], large["model"]["hidden_size"]) == (64, 64), (small, large)


# Lines of doctor on a machine without any tool, and with all of them; numbers of the machine are masked.
WITHOUT_TOOLS = """\
ok    cores     # for this process
ok    cpu       kernels for #
ok    memory    # available
ok    disk      # free in HERE
note  compiler  not found; needed to build, not to run: apt-get install g++
note  meson     not found; needed to build, not to run: apt-get install meson ninja-build
note  mpi       not found; needed only for ranks on several machines: apt-get install openmpi-bin libopenmpi-dev
note  cuda      no NVIDIA device; training runs on the CPU
"""
WITH_TOOLS = re.sub("note  (compiler|meson|mpi)  ( *)not found.*", r"ok    \1  \2\1 version 42", WITHOUT_TOOLS)


def doctor_lines(code=0, **options):
    text = run("doctor", code=code, **options).stdout
    text = re.sub(r"(cores +)\d+ processors?", r"\1#", text)
    text = re.sub(r"(kernels for )\w+", r"\1#", text.replace("note  cpu ", "ok    cpu "))
    text = re.sub(r"[\d.]+ [kMGT]?B (available|free)", r"# \1", text)
    if os.path.exists("/dev/nvidia0"):
        print("skipped: this machine has a GPU, so doctor cannot say that it has none")
        text = re.sub("(?m)^.*  (nccl|cudnn)  .*\n", "", re.sub("(?m)^.*  cuda  .*$", WITHOUT_TOOLS.splitlines()[-1], text))
    return text.replace(os.path.realpath(options.get("cwd", ".")), "HERE")


def small_disk(size):
    """What doctor says of a file system of this size, or None where none can be mounted."""
    os.makedirs("disk", exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", "disk"], capture_output=True).returncode != 0:
        return None
    try:
        return {c["name"]: c for c in json.loads(subprocess.run(
            [SWITCHYARD, "doctor", "--json"], cwd="disk", capture_output=True, text=True).stdout)["checks"]}["disk"]
    finally:
        subprocess.run(["umount", "disk"], check=True)


def test_doctor():
    checks = json.loads(run("doctor", "--json").stdout)
    names = [check["name"] for check in checks["checks"]]
    assert names[:8] == ["cores", "cpu", "memory", "disk", "compiler", "meson", "mpi", "cuda"], names
    assert names[8:] == (["nccl", "cudnn"] if checks["checks"][7]["status"] == "ok" else []), names
    assert checks["ok"] and checks["checks"][0]["what"].startswith(f"{len(os.sched_getaffinity(0))} processor"), checks
    lines = run("doctor").stdout.splitlines()
    assert len(lines) == len(names) and all(line.split()[1] == name for line, name in zip(lines, names)), lines
    bare = doctor_lines(env={"PATH": "/nowhere"})
    assert bare == WITHOUT_TOOLS, bare
    # tools that are there are asked for their version, wherever they are
    os.makedirs("a b")
    for program, name in (("c++", "compiler"), ("meson", "meson"), ("mpirun", "mpi")):
        with open(f"a b/{program}", "w") as out:
            out.write(f"#!/bin/sh\necho {name} version 42\necho more\n")
        os.chmod(f"a b/{program}", 0o755)
    whole = doctor_lines(env={"PATH": "/nowhere::" + os.path.abspath("a b")})
    without_mpi = ", but this program was built without MPI; needed only for several machines: install libopenmpi-dev and build it again"
    assert whole.replace(without_mpi, "").replace("note  mpi", "ok    mpi") == WITH_TOOLS, whole
    for size, status in (("100m", "fail"), ("1g", "note"), ("3g", "ok")):
        disk = small_disk(size)
        if disk is None:
            print("skipped: no file system may be mounted here, so doctor has not seen a small disk")
            break
        assert disk["status"] == status and disk["fix"].startswith("make room") == (status != "ok"), (size, disk)
    if os.getuid() == 0:
        shutil.copy(SWITCHYARD, "doctor")  # to where everybody may run it
        result = subprocess.run([os.path.abspath("doctor"), "doctor"], capture_output=True, text=True, cwd="/",
                                preexec_fn=lambda: os.setuid(NOBODY))
        assert result.returncode == 4, result
        assert "fail  disk      cannot write in /: go to a directory of yours" in result.stdout, result.stdout
        assert result.stderr.endswith("see disk above (exit 4)\n"), result.stderr


def every_command():
    """The words of each command that does something."""
    for command in commands_of():
        inner = commands_of(command)
        yield from ([command, word] for word in inner) if inner else [[command]]


def test_help():
    """Fits a terminal, says what each word means, and gives an example that is a command of the program."""
    number = 0
    for words in [[], *([command] for command in commands_of()), *every_command()]:
        text = run(*words, "--help").stdout
        too_long = [line for line in text.splitlines() if len(line) > 80]
        assert not too_long, (words, too_long)
    for words in every_command():
        number += 1
        text = run(*words, "--help").stdout
        examples = re.findall(r"switchyard ([^\n|>)&]*)", text.partition("Example")[2].replace("\\\n", ""))
        assert examples, (words, text)
        assert any(example.split()[:len(words)] == words for example in examples), (words, examples)
        for example in examples:
            for option in re.findall(r" (--[a-z-]+)", example):
                assert option in run(*example.split()[:2 if commands_of(example.split()[0]) else 1], "--help").stdout, example
    assert number >= 20, number


def rendered(page):
    """{program: the page as it shows it}; a warning fails."""
    texts = {}
    for tool in (["man", "-l", "--warnings", "-Tutf8", "-"], ["groff", "-man", "-Tutf8", "-ww", "-rLL=200n"]):
        if not shutil.which(tool[0]):
            print(f"skipped: {tool[0]} is not installed, so it has not read the manual page")
            continue
        result = subprocess.run(tool, input=page, capture_output=True, text=True, env={**os.environ, "MANWIDTH": "200"})
        assert result.returncode == 0 and not result.stderr, result.stderr
        texts[tool[0]] = re.sub(".\b|\033\\[[0-9;]*m", "", result.stdout)
    return texts


def test_man():
    page = run("man").stdout
    texts = rendered(page)
    assert page.startswith(".TH SWITCHYARD 1 ")
    plain = page.replace("\\-", "-")
    for words in every_command():
        assert f'.SS "{" ".join(words)}"' in plain, words
        options = re.findall(r"(?m)^  (?:(-\w),)?(--[a-z-]+)", run(*words, "--help").stdout)
        assert options, words
        for tool, text in texts.items():
            section = re.split(r"(?m)^ {0,3}\S", text.partition(f"\n   {' '.join(words)}\n")[2])[0]
            shown = re.findall(r"(?m)^       (?:(-\w),)?(--[a-z-]+)", section)
            assert shown == [option for option in options if option[1] != "--help"], (tool, words, shown, options)
    for key in re.findall(r"(?m)^([\w$.\[\]]+)  \(", run("config", "explain").stdout):
        assert f'.B "{key}"' in plain, key
        assert all(f"\n       {key} " in text.replace("\n", " \n") for text in texts.values()), key


def complete(words):
    """What bash offers after these words, the last of which is being typed."""
    script = ('source <("$0" completion bash); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _switchyard; '
              'printf "%s\\n" "${COMPREPLY[@]}"')
    result = subprocess.run(["bash", "-c", script, SWITCHYARD, "switchyard", *words], capture_output=True, text=True)
    assert result.returncode == 0 and not result.stderr, result.stderr
    return result.stdout.split()


def commands_of(*words):
    """The subcommands that --help lists."""
    return re.findall(r"(?m)^  ([a-z]+) ", run(*words, "--help").stdout.partition("Subcommands:")[2])


def test_completion():
    listed = commands_of()
    assert len(listed) >= 10 and set(listed) <= set(complete([""])), (listed, complete([""]))
    assert complete(["tr"]) == ["train"]
    for command in listed:
        for inner in commands_of(command):
            assert inner in complete([command, ""]), (command, inner)
        options = run(command, "--help").stdout.partition("Options:")[2].partition("Subcommands:")[0]
        for option in re.findall(r"(?m)^  (?:-\w,)?(--[a-z-]+)", options):
            assert option in complete([command, "--"]), (command, option)
    assert "--run-dir" in complete(["train", "config", "--r"]), "a word that is no command changes nothing"
    assert complete(["data", "which", "c.json", "--st"]) == ["--step"]
    assert complete(["train", "c.json", "--set", "optim.warm"]) == ["optim.warmup="]
    assert complete(["train", "c.json", "--set", "data.sources[0].we"]) == ["data.sources[0].weight="]
    assert complete(["config", "explain", "model.router.z"]) == ["model.router.z_loss_coef"]
    keys = re.findall(r"(?m)^([\w$.\[\]]+)  \(", run("config", "explain").stdout)
    offered = complete(["train", "--set", ""])
    expected = [key.replace("[]", "[0]") + "=" for key in keys if key != "$schema"]
    assert len(keys) > 80 and expected == offered, set(expected) ^ set(offered)
    assert complete(["train", "one.t"]) == ["one.txt"]
    zsh = run("completion", "zsh").stdout
    assert zsh.startswith("#compdef switchyard\n") and all(command in zsh for command in listed), zsh


with tempfile.TemporaryDirectory() as place:
    os.chdir(place)
    os.chmod(place, 0o755)
    for test in (test_init, test_doctor, test_help, test_man, test_completion):
        test()
    os.chdir("/")
print("init, doctor, help, the manual page and completion hold")
