#!/usr/bin/env python3
"""Mutates safetensors files and compares our reader with the reference (PyPI safetensors): what ours takes, it takes.

usage: compare_safetensors.py ACCEPTS [--files N] [--seed N] [--results FILE]

ACCEPTS is build-test/tests/safetensors_accepts. Skipped with exit 77 where the package safetensors is not installed. What
the reference takes and ours does not is counted by reason: ours has stricter limits. Exit 0 if ours took nothing else.
"""

import argparse
import collections
import datetime
import json
import os
import random
import struct
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DTYPES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
          "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1}
TOKENS = ['"', "{", "}", "[", "]", ",", ":", " ", "0", "1", "8", "-", ".", "e", "null", "true", "\\u0000", "\\", "\0",
          "\n", "\x7f", "\xe9", "__metadata__", '"a":', "[]", "{}", "18446744073709551615", "9223372036854775808", "-0", "1.0"]


def whole(draw):
    """A file that both readers take."""
    header, data, tensors = {}, b"", []
    for i in range(draw.randrange(4)):
        dtype = draw.choice(list(DTYPES))
        shape = [draw.randrange(4) for _ in range(draw.randrange(4))]
        size = DTYPES[dtype]
        for dim in shape:
            size *= dim
        tensors.append((f"t{i}", {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + size]}))
        data += bytes(draw.randrange(256) for _ in range(size))
    draw.shuffle(tensors)
    if draw.random() < 0.3:
        header["__metadata__"] = {"format": "pt", "a": "b"} if draw.random() < 0.7 else {}
    header.update(tensors)
    text = json.dumps(header, separators=draw.choice([(",", ":"), (", ", ": ")])).encode()
    return text + b" " * draw.randrange(9), data


def mutated(draw):
    text, data = whole(draw)
    length = None
    for _ in range(draw.choice((0, 1, 1, 1, 2, 3))):
        place = draw.randrange(len(text) + 1)
        kind = draw.randrange(8)
        if kind == 0:
            text = text[:place] + bytes([draw.randrange(256)]) + text[place + 1:]
        elif kind == 1:
            text = text[:place] + draw.choice(TOKENS).encode("latin-1") + text[place:]
        elif kind == 2:
            text = text[:place] + text[place + draw.randrange(1, 6):]
        elif kind == 3:
            other = draw.randrange(len(text) + 1)
            text = text[:place] + text[min(place, other):max(place, other)] + text[place:]
        elif kind == 4:
            digits = [i for i, c in enumerate(text) if chr(c).isdigit()]
            if digits:
                at = draw.choice(digits)
                text = text[:at] + str(draw.randrange(20)).encode() + text[at + 1:]
        elif kind == 5:
            data = data[:draw.randrange(len(data) + 1)] if draw.random() < 0.5 else data + b"x"
        elif kind == 6:
            length = len(text) + draw.randrange(-4, 5)
        else:
            text = text.replace(b'"F32"', f'"{draw.choice(["F31", "F4", "C64", "F8_E8M0", "F64"])}"'.encode())
    return struct.pack("<Q", max(0, len(text) if length is None else length)) + text + data


def reference_takes(file):
    import safetensors
    try:
        safetensors.deserialize(file)
        return True
    except safetensors.SafetensorError:
        return False


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("accepts")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results")
    arguments = parser.parse_args()
    try:
        import safetensors
    except ImportError:
        print("skipped: the package safetensors is not installed")
        return 77
    draw = random.Random(arguments.seed)
    files = [mutated(draw) for _ in range(arguments.files)]
    stream = b"".join(struct.pack("<I", len(file)) + file for file in files)
    ours = subprocess.run([arguments.accepts], input=stream, capture_output=True, check=True).stdout.split()
    assert len(ours) == len(files), (len(ours), len(files))
    counts = collections.Counter()
    for file, verdict in zip(files, ours):
        key = (verdict == b"1", reference_takes(file))
        counts[key] += 1
        if key == (True, False):
            print(f"ours takes what the reference refuses: {file!r}")
    wrong = counts[True, False]
    both, neither, stricter = counts[True, True], counts[False, False], counts[False, True]
    verdict = f"{len(files)} files: both take {both}, both refuse {neither}, only ours refuses {stricter}, only ours takes {wrong}"
    print(verdict)
    if arguments.results:
        commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        with open(arguments.results, "w", encoding="utf-8") as out:
            out.write(f"# Safetensors beside the reference reader\n\n{datetime.date.today()}, commit {commit.stdout.strip()}, "
                      f"safetensors {safetensors.__version__}, `scripts/compare_safetensors.py ACCEPTS --files {len(files)} --seed "
                      f"{arguments.seed}`.\n\n| | files |\n|---|---|\n| mutated and shown to both | {len(files)} |\n| both take | {both} |\n"
                      f"| both refuse | {neither} |\n| only ours refuses (its limits are stricter) | {stricter} |\n"
                      f"| only ours takes | {wrong} |\n")
    return 1 if wrong or both < len(files) // 20 else 0


if __name__ == "__main__":
    sys.exit(main())
