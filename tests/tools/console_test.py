#!/usr/bin/env python3
"""What a run says, on terminals of 80 and 200 columns, with NO_COLOR, and in a pipe, kept as console.txt; and that it is
never silent for more than a minute.

Numbers that differ from run to run are masked. --update writes the texts anew, to be read before they are committed.

usage: console_test.py SWITCHYARD REPOSITORY [--update]
"""

import difflib
import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time

import tiny

SWITCHYARD, ROOT = os.path.abspath(sys.argv[1]), sys.argv[2]
GOLDEN = os.path.join(ROOT, "tests/tools/console.txt")


def environment(**changes):
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR", "TERM")}
    return {**kept, "TERM": "xterm", **changes}


def on_terminal(columns, *arguments, **changes):
    """Everything a program writes to a terminal of this width."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen([SWITCHYARD, *arguments], stdout=subprocess.DEVNULL, stderr=follower, stdin=follower,
                               env=environment(**changes))
    os.close(follower)
    written = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        written += piece
    os.close(leader)
    assert process.wait() == 0, written
    return written.decode()


def in_pipe(*arguments, **changes):
    result = subprocess.run([SWITCHYARD, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                            env=environment(**changes))
    assert result.returncode == 0, result.stderr
    return result.stderr


class Silence:
    """A run in a pipe whose text does not come for a minute: it says so meanwhile."""

    def __init__(self):
        with open("tiny.json") as file:
            config = json.load(file)
        config["data"] = {"sources": [{"name": "text", "files": "-"}], "held_out": {"split": "tail"}}
        with open("silence.json", "w") as out:
            json.dump(config, out)
        self.process = subprocess.Popen([SWITCHYARD, "train", "silence.json", "--run-dir", "silence", "--threads", "1"],
                                        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                        text=True, env=environment())  # fmt: skip
        self.times, self.lines = [time.monotonic()], []
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        for line in self.process.stderr:
            self.times.append(time.monotonic())
            self.lines.append(line)

    def check(self):
        """Waits for the heartbeat, and then lets the text come."""
        while not any(line.startswith("heartbeat ") for line in self.lines) and time.monotonic() < self.times[0] + 120:
            time.sleep(0.1)
        with open("tiny.txt") as file:
            self.process.stdin.write(file.read())
        self.process.stdin.close()
        self.reader.join()
        assert self.process.wait() == 0, self.lines
        beats = [line for line in self.lines if line.startswith("heartbeat ")]
        assert len(beats) == 1 and re.fullmatch(r'heartbeat activity="[a-z ]+" seconds_since=5\d\n', beats[0]), self.lines
        longest = max(b - a for a, b in zip(self.times, self.times[1:]))
        assert longest < 60, (longest, self.lines)
        return longest


def screen(written, columns):
    """The lines that stay, and the bars and activities that were drawn and taken away again."""
    lines, drawn = [], []
    for line in written.replace("\r\n", "\n").split("\n"):
        for piece in line.split("\r"):
            piece = piece.replace("\033[K", "")
            visible = re.sub(r"\033\[[0-9;]*m", "", piece)
            assert len(visible) <= columns, (columns, visible)
            if visible:
                drawn.append(visible)
        lines.append(re.sub(r".*\r", "", line).replace("\033[K", ""))
    return "\n".join(lines), drawn


VOLATILE = ("tok/s", "data", "fwd", "bwd", "comm", "opt")


def masked_rows(text):
    """Rows of the table with times and speeds masked, by the columns of the header above them."""
    spans, lines = [], []
    for line in text.split("\n"):
        plain = re.sub(r"ESC\[[0-9]*m", "", line)
        if plain.startswith("   step "):
            titles = list(re.finditer(r" +(load max/mean|\S+)", plain))
            spans = [title.span() for title in titles if title[1] in VOLATILE]
        elif re.match(r" +\d+ +\d+\.\d{4} ", plain):
            for begin, end in spans:
                line = line[:begin] + "#".rjust(end - begin) + line[end:]
        lines.append(line)
    return "\n".join(lines)


def masked(text):
    """Times, speeds and what depends on the machine; a number in a column keeps its place."""
    text = text.replace("\033", "ESC")
    text = re.sub(r"process   .*", "process   #", text)
    text = re.sub(r"durable in \S+", "durable in #", text)
    text = re.sub(r"\b\d+ threads each, cpu \w+", "# threads each, cpu #", text)
    text = re.sub(r"(tokens_per_second|data|forward|backward|comm|optimizer|eta_seconds)=[0-9.]+", r"\1=#", text)
    text = masked_rows(text)
    # how long the bar is, and whether the hint has room, depends on the length of the numbers
    text = re.sub(r"(?m)^bar: \[#*-*\] (.*bpb)  \S+ tok/s  eta .*$", r"bar: [#--] \1  # tok/s  eta #", text)
    text = re.sub(r"(?m)^mpirun .*\n", "", text)
    return re.sub(r"memory((?:ESC\[0m)?) +.*(\n {10}.*)*", r"memory\1    #", text)


def main():
    tiny.write_text()
    with open("other.txt", "w") as out:
        out.writelines(f"quite another {i % 7} sort {i % 5}\n" for i in range(40))
    config = tiny.config()
    config["data"]["ood"] = [{"name": "other", "files": "other.txt"}]
    config["eval"] = {"every": 5, "samples": 0}
    config["train"]["stop"] = {"steps": 10}
    json.dump(config, open("tiny.json", "w"))
    silence = Silence()
    train = ["train", "tiny.json", "--threads", "1", "--run-dir"]
    texts = {}
    for name, columns, extra, changes in (
            ("a terminal of 80 columns", 80, [], {}),
            ("a terminal of 200 columns", 200, [], {}),
            ("a terminal of 80 columns, NO_COLOR", 80, [], {"NO_COLOR": "1"}),
            ("a terminal, COLUMNS=70, --color never", 80, ["--color", "never"], {"COLUMNS": "70"})):
        directory = f"run{len(texts)}"
        lines, drawn = screen(on_terminal(columns, *train, directory, *extra, **changes),
                              int(changes.get("COLUMNS", columns)))
        bars = [piece for piece in drawn if re.search(r"\d+/10  ", piece)]
        assert bars, (name, drawn)
        # which steps the bar is drawn at depends on how fast they are
        texts[name] = lines.replace(directory, "RUN") + "bar: " + re.sub(r"\d+/10  [\d.]+ bpb", "#/10  # bpb", bars[0]) + "\n"
        assert ("\033" in lines) == ("NO_COLOR" not in changes and "--color" not in extra), name
    directory = "piped"
    texts["a pipe"] = in_pipe(*train, directory).replace(directory, "RUN")
    texts["a pipe, with more to say"] = in_pipe(*train, directory, "-v").replace(directory, "RUN")
    assert "\033" not in texts["a pipe"] and "\r" not in texts["a pipe"]
    if shutil.which("mpirun"):
        texts["two ranks under mpirun"] = in_pipe(*train, "mpi", "--ranks", "2", "--transport", "mpi").replace(
            "mpi/", "RUN/").replace("run       mpi", "run       RUN")
        # how often the region for received rows grows is no matter of the console
        texts["two ranks under mpirun"] = re.sub(r"(?m)^memory .*\n", "", texts["two ranks under mpirun"])
    else:
        print("skipped: mpirun is not installed, so there is no console under it")
    text = "".join(f"== {name}\n{masked(body)}\n" for name, body in texts.items())
    text = re.sub(r"(?m) +$", "", text)
    if "--update" in sys.argv:
        with open(GOLDEN, "w", encoding="utf-8") as out:
            out.write(text)
    with open(GOLDEN, encoding="utf-8") as golden:
        expected = golden.read()
    problems = list(difflib.unified_diff(expected.split("\n"), text.split("\n"), "console.txt", "now", lineterm="", n=2))
    print("\n".join(problems) if problems else f"{len(texts)} screens are as they should be")
    print(f"the longest silence in a pipe: {silence.check():.1f} s")
    return 1 if problems else 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        code = main()
        os.chdir("/")
    sys.exit(code)
