#!/usr/bin/env python3
"""configs/schema.json, judged by python3-jsonschema, agrees with `config check` wherever a schema can judge: on every
config of the tree, every config of the bad-input cases with their --set, and every key with every kind of value.

usage: schema_test.py SWITCHYARD REPOSITORY
"""

import copy
import glob
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

try:
    import jsonschema
except ImportError:
    print("skipped: python3-jsonschema is not installed")
    sys.exit(77)

import bad_input_cases as cases

SWITCHYARD, ROOT = os.path.abspath(sys.argv[1]), sys.argv[2]
# What no schema of draft-07 can see: relations between keys, names that must differ, units, and the text itself.
BEYOND = ("key heads do not divide", "heads do not divide the width", "an odd width of a head",
          "more choices than experts", "too many experts", "groups do not divide", "more groups chosen than there are",
          "groups too small for the choices", "a gate without a shared expert", "sequences beyond the positions",
          "a batch of parts of sequences", "a batch smaller than a sequence", "granules do not divide",
          "a pass that cuts granules unevenly", "a balance loss by granule over part of one", "warm-up beyond the end",
          "min_lr above lr", "three betas", "a beta of one", "two sources of one name",
          "a source and other text of one name", "a schedule without a length", "filters that leave nothing",
          "a vocabulary smaller than bytes", "a unit that is none", "a part of a token", "a time without a number",
          "a key twice", "an inner key twice", "a value that is no JSON", "a number beyond all bounds",
          "half a surrogate")  # fmt: skip
VALUES = (None, True, -1, 0, 1, 2, 7, 0.25, 1.0, 1.5, 101, "", "x", "none", "groups", "error", "5M", [], [1], ["x"], {}, [{}])
OF_ITS_OWN = re.compile(r"error: ((?:[\w.\[\]$]+ is .* but must be (?:an? (?:integer|number|whole number|string|list|object)|"
                        r"one of |true or false|\"auto\"|[\d.]+$))|unknown key |[\w.\[\]]+ needs a \")")  # fmt: skip


def check(text, settings=()):
    """Whether `config check` takes a config, and what it says."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(text)
        file.flush()
        arguments = [part for setting in settings for part in ("--set", setting)]
        result = subprocess.run([SWITCHYARD, "config", "check", file.name, *arguments], capture_output=True, text=True)
    assert result.returncode in (0, 2), result
    return result.returncode == 0, result.stderr


def place_of(root, path):
    """The container and the key of "a.b[0].c"; containers that are missing are made."""
    parts = [int(part[1:-1]) if part.startswith("[") else part for part in re.findall(r"\[\d+\]|[^.\[\]]+", path)]
    for part, following in zip(parts, parts[1:]):
        if isinstance(part, int):
            while len(root) <= part:
                root.append({})
        elif part not in root:
            root[part] = [] if isinstance(following, int) else {}
        root = root[part]
    return root, parts[-1]


def with_settings(root, settings):
    """A config with the values of --set in it, or None where the setting itself has no sense."""
    for setting in settings:
        path, equals, text = setting.partition("=")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        try:
            container, key = place_of(root, path)
            container[key] = value
        except (KeyError, IndexError, TypeError):
            return None
    return root


def files_agree(validator, problems):
    paths = [path for path in sorted(glob.glob(os.path.join(ROOT, "configs/*.json"))) if not path.endswith("/schema.json")]
    for path in paths:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        problems += [f"{path}: {error.message}" for error in validator.iter_errors(json.loads(text))]
        assert check(text)[0], path
    return len(paths)


def cases_agree(validator, problems):
    """Every config among the cases of bad input, good or bad, whatever the case is about."""
    judged = set()
    for name, _, preparation, arguments in cases.CASES:
        if not isinstance(preparation, dict) or "c.json" not in preparation or "c.json" not in arguments:
            continue
        settings = [b for a, b in zip(arguments, arguments[1:]) if a == "--set"]
        try:
            root = with_settings(json.loads(preparation["c.json"]), settings)
        except ValueError:
            continue  # no JSON at all
        if root is None or any("=" not in setting or setting.startswith("=") for setting in settings):
            continue
        content = preparation["c.json"]
        if len(content) > 10**6 or isinstance(content, bytes) or (content, *settings) in judged:
            continue
        judged.add((content, *settings))
        what = name.partition(": ")[2]
        by_schema, (by_check, message) = validator.is_valid(root), check(content, settings)
        if by_schema != by_check and not (by_schema and what in BEYOND):
            problems.append(f"{name}: the schema says {by_schema}, config check {by_check}\n{message}")
        if by_schema == by_check and what in BEYOND:
            problems.append(f"{name}: is not beyond a schema")
    return len(judged)


def values_agree(validator, problems):
    """Each key with each kind of value: what the schema refuses is refused, and so is what breaks the key's own bounds."""
    keys = [line.split()[0] for line in subprocess.run([SWITCHYARD, "config", "explain"], capture_output=True, text=True)
            .stdout.splitlines() if re.match(r"[\w$]", line)]  # fmt: skip
    assert len(keys) > 100, keys
    trials = []
    for key in keys:
        for value in VALUES:
            root = json.loads(cases.GOOD)
            for path in ("data.ood[0]", "optim.groups[0]"):
                if key.startswith(path.replace("0", "")):
                    container, last = place_of(root, path)
                    assert last == 0 and not container
                    container.append({"name": "other", "files": "b.txt"} if "ood" in path else {"pattern": "x"})
            container, last = place_of(root, key.replace("[]", "[0]"))
            container[last] = copy.deepcopy(value)
            trials.append((key, value, root))
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda trial: check(json.dumps(trial[2])), trials)
    refused = 0
    for (key, value, root), (by_check, message) in zip(trials, results):
        by_schema = validator.is_valid(root)
        refused += not by_check
        if by_check and not by_schema:
            problems.append(f"{key} = {value!r}: the schema refuses what config check takes")
        of_its_own = OF_ITS_OWN.search(message) and not (isinstance(value, str) and "or a string like" in message)
        if by_schema and of_its_own:
            problems.append(f"{key} = {value!r}: the schema takes what config check refuses: {message}")
    assert refused > len(trials) / 2, refused
    return len(trials)


def main():
    with open(os.path.join(ROOT, "configs/schema.json"), encoding="utf-8") as file:
        schema = json.load(file)
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    problems = []
    counts = [agree(validator, problems) for agree in (files_agree, cases_agree, values_agree)]
    print("\n".join(problems) if problems else "the schema and config check agree on {} files, {} configs of bad input, "
          "{} values of keys".format(*counts))  # fmt: skip
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
