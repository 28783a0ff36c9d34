"""The text and the config that tests of commands train on."""

import json
import os

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def text(lines=400, first=0):
    return "".join(f"line {i} of a text in which {i * 7 % 13} follows {i * 7 % 12} and so on\n" for i in range(first, first + lines))


def write_text(path="tiny.txt", lines=400, first=0):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text(lines, first))


def config():
    """configs/tiny.json, whose text is tiny.txt beside it."""
    with open(os.path.join(ROOT, "configs/tiny.json"), encoding="utf-8") as file:
        values = json.load(file)
    del values["$schema"]
    return values
