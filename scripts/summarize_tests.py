#!/usr/bin/env python3
"""Reads what meson test has left and prints what failed, what was skipped and why, and the counts.

usage: summarize_tests.py TESTLOG_JSON LABEL

The last line is "counts PASSED FAILED SKIPPED", for test.sh to add up.
"""

import json
import sys

PASSED = ("OK", "EXPECTEDFAIL")
TAIL = 60  # lines of a failing test's output


def output_of(test):
    return (test.get("stdout") or "").splitlines() + (test.get("stderr") or "").splitlines()


def summarize(tests, label):
    passed = [test for test in tests if test["result"] in PASSED]
    skipped = [test for test in tests if test["result"] == "SKIP"]
    failed = [test for test in tests if test["result"] not in PASSED + ("SKIP",)]
    lines = []
    for test in skipped:
        reason = next((line for line in reversed(output_of(test)) if line.strip()), "it gave no reason")
        lines.append(f"{label}: {test['name']} skipped: {reason.strip().removeprefix('skipped: ')}")
    for test in failed:
        lines.append(f"{label}: {test['name']} failed ({test['result']}, exit code {test.get('returncode')}); it ended with:")
        lines += ["    " + line for line in output_of(test)[-TAIL:]]
    return lines + [f"counts {len(passed)} {len(failed)} {len(skipped)}"]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as log:
        results = [json.loads(line) for line in log if line.strip()]
    print("\n".join(summarize(results, sys.argv[2])))
