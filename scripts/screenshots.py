#!/usr/bin/env python3
"""Pictures of a run's load report in headless Chromium: light, dark and as wide as a phone.

usage: screenshots.py RUN NAME [--switchyard PROGRAM] [--to DIRECTORY]

Writes NAME-light.png, NAME-dark.png and NAME-phone.png (apt-get install chromium). Those in tests/results are of the run of
scripts/quickstart.sh (load-demo) and of configs/debian_local.json with --set name=64-experts, model.num_experts=64,
model.num_experts_per_tok=8, model.moe_intermediate_size=48, model.num_hidden_layers=6, model.hidden_size=96,
train.seq_len=128, train.batch_tokens=4096, train.stop.steps=120, log.every=5 (load-64-experts).
"""

import argparse
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "support"))
import chromium  # noqa: E402

LOOKS = {"light": (1000, 1000, False), "dark": (1000, 1000, True), "phone": (390, 1000, False)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("name")
    parser.add_argument("--switchyard", default=os.path.join(ROOT, "build", "switchyard"))
    parser.add_argument("--to", default=os.path.join(ROOT, "tests", "results"))
    options = parser.parse_args()
    if not chromium.find():
        sys.exit("there is no Chromium here: apt-get install chromium")
    with tempfile.TemporaryDirectory() as place:
        path = os.path.join(place, "load.html")
        subprocess.run([options.switchyard, "experts", options.run, "--html", path], check=True, stdout=subprocess.DEVNULL)
        for look, (width, height, dark) in LOOKS.items():
            with chromium.Page(width=width, height=height, dark=dark) as page:
                page.open(path)
                picture = os.path.join(options.to, f"{options.name}-{look}.png")
                page.screenshot(picture, height)
                print(picture, os.path.getsize(picture), *page.problems)


if __name__ == "__main__":
    main()
