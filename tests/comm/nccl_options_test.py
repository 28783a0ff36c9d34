"""What train says of --transport nccl where there is no GPU.

usage: nccl_options_test.py SWITCHYARD REPOSITORY CUDA, with the build's option cuda
"""

import os
import shutil
import subprocess
import sys
import tempfile

SWITCHYARD, REPOSITORY, CUDA = sys.argv[1:4]
sys.path.insert(0, os.path.join(REPOSITORY, "tests", "tools"))
import tiny  # noqa: E402


def refused(code, text, *options):
    """train ends with this code and one error, which begins so."""
    result = subprocess.run([SWITCHYARD, "train", "tiny.json", "--run-dir", "run", *options], capture_output=True, text=True, timeout=60)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    what = f"{' '.join(options)}: {errors}"
    if result.returncode != code or len(errors) != 1 or not errors[0].startswith(f"error: {text}") or os.path.exists("run"):
        sys.exit(f"FAILED: {what}\nexit {result.returncode}, not {code} with {text!r}\n{result.stderr}")
    print(f"ok: {what}", flush=True)


def main():
    shutil.copy(os.path.join(REPOSITORY, "configs/tiny.json"), "tiny.json")
    tiny.write_text()
    refused(2, "--transport nccl moves what is on GPUs; add --device cuda", "--transport", "nccl", "--ranks", "2")
    refused(2, "--share-gpu lets ranks of --transport nccl share a GPU", "--share-gpu")
    if CUDA == "disabled":
        refused(4, "this build has no CUDA", "--transport", "nccl", "--ranks", "2", "--device", "cuda")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        try:
            main()
        finally:
            os.chdir("/")
