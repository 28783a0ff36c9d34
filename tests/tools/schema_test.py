#!/usr/bin/env python3
"""configs/schema.json, judged by python3-jsonschema, agrees with `config check` on what a schema can judge.

usage: schema_test.py SWITCHYARD REPOSITORY
"""

import glob
import json
import os
import sys

try:
    import jsonschema
except ImportError:
    print("skipped: python3-jsonschema is not installed")
    sys.exit(77)

import bad_input_cases as cases

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
          "an integer beyond 64 bits")


def main(root):
    with open(os.path.join(root, "configs/schema.json"), encoding="utf-8") as file:
        schema = json.load(file)
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    problems, judged = [], 0
    for path in sorted(glob.glob(os.path.join(root, "configs/*.json"))):
        if os.path.basename(path) == "schema.json":
            continue
        with open(path, encoding="utf-8") as file:
            problems += [f"{path}: {error.message}" for error in validator.iter_errors(json.load(file))]
        judged += 1
    for name, _, preparation, _ in cases.CASES:
        kind, _, what = name.partition(": ")
        if kind != "config":
            continue
        try:
            valid = validator.is_valid(json.loads(preparation["c.json"]))
        except ValueError:
            continue  # no JSON at all
        judged += 1
        if valid != (what in BEYOND):
            problems.append(f"{name}: the schema says {'valid' if valid else 'not valid'}")
    print("\n".join(problems) if problems else f"the schema and config check agree on {judged} configs")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[2]))
