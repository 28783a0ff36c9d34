"""Ranks as processes, as a user starts and loses them: the launch, the handshake, signals, ranks that die or hang.

usage: mpi_job_test.py SWITCHYARD REPOSITORY; exit 77 where there is no MPI
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SWITCHYARD, REPOSITORY = sys.argv[1:3]
sys.path.insert(0, os.path.join(REPOSITORY, "tests", "tools"))
import tiny  # noqa: E402
ENDLESS = ["--set", "train.stop.steps=1000000", "--set", "optim.schedule=constant"]


def expect(holds, what, detail=""):
    if not holds:
        sys.exit(f"FAILED: {what}\n{detail}")
    print(f"ok: {what}", flush=True)


def train(*arguments, **options):
    return subprocess.Popen([SWITCHYARD, "train", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def finish(process, seconds=120):
    try:
        return (*process.communicate(timeout=seconds), process.returncode)
    except subprocess.TimeoutExpired:
        process.kill()
        sys.exit(f"FAILED: it did not end in {seconds} s\n" + "\n".join(process.communicate()))


def descendants(pid):
    """(pid, command line) of everything below a process."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8") as file:
                parent = int(file.read().rsplit(")", 1)[1].split()[1])
            with open(f"/proc/{entry}/cmdline", encoding="utf-8") as file:
                command = file.read().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid:
            found += [(int(entry), command)] + descendants(int(entry))
    return found


def rank_of(pid):
    with open(f"/proc/{pid}/environ", encoding="utf-8") as file:
        for word in file.read().split("\0"):
            name, _, value = word.partition("=")
            if name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK"):
                return int(value)
    return None


def ranks_of(job, count):
    """The process of each rank, once all have made a step."""
    for _ in range(600):
        if job.poll() is not None:
            sys.exit("FAILED: the job ended early\n" + "\n".join(job.communicate()))
        if os.path.exists("lost/metrics.jsonl"):
            with open("lost/metrics.jsonl", encoding="utf-8") as file:
                if sum(1 for _ in file) >= 3:
                    break
        time.sleep(0.1)
    ranks = {rank_of(pid): pid for pid, command in descendants(job.pid) if " train " in command}
    ranks.pop(None, None)  # the launcher
    expect(sorted(ranks) == list(range(count)), f"{count} ranks run", str(ranks))
    return ranks


def lose(rank, how, seconds, said=True):
    """What a job of three ranks says when one of them gets a signal. said: the launcher leaves the others time to say it."""
    shutil.rmtree("lost", ignore_errors=True)
    job = train("tiny.json", "--ranks", "3", "--transport", "mpi", "--run-dir", "lost", "--threads", "1", *ENDLESS)
    ranks = ranks_of(job, 3)
    below = [pid for pid, _ in descendants(job.pid)]
    os.kill(ranks[rank], how)
    start = time.monotonic()
    _, errors, code = finish(job, seconds + 60)
    took = time.monotonic() - start
    lines = [line for line in errors.splitlines() if line.startswith("error:")]
    what = f"rank {rank} and {how.name}"
    expect(code == 9, f"{what}: exit {code}", errors)
    expect(took < seconds, f"{what}: {took:.1f} s of {seconds}", errors)
    if said:
        expect(len(lines) == 1, f"{what}: one message", errors)
        expect(f"rank {rank} on " in lines[0] and "step" in lines[0], f"{what}: {lines[0]}", errors)
    for _ in range(50):
        if not any(os.path.exists(f"/proc/{pid}") for pid in below):
            break
        time.sleep(0.1)
    expect(not any(os.path.exists(f"/proc/{pid}") for pid in below), f"{what}: no process is left")
    return lines


def main():
    if not shutil.which("mpirun"):
        print("skipped: mpirun is not installed (apt-get install openmpi-bin)")
        sys.exit(77)
    shutil.copy(os.path.join(REPOSITORY, "configs/tiny.json"), "tiny.json")
    tiny.write_text()
    printed, errors, code = finish(train("tiny.json", "--ranks", "2", "--transport", "mpi", "--print-launch"))
    if "built without MPI" in errors:
        print("skipped: built without MPI")
        sys.exit(77)
    expect(code == 0 and "mpirun -n 2" in printed and "none" in printed and "--threads" in printed, "the launch is printed", printed + errors)
    open_mpi = "Open MPI" in subprocess.run(["mpirun", "--version"], capture_output=True, text=True).stdout
    expect(("ROOT=1" in printed) == (open_mpi and os.geteuid() == 0), "Open MPI is told to allow root, for root only", printed)

    shared_memory = set(os.listdir("/dev/shm"))
    one = json.loads(finish(train("tiny.json", "--run-dir", "one", "--json"))[0].splitlines()[-1])
    for arguments in (["--ranks", "2"], ["--ranks", "4", "--set", "parallel.ep_size=2"]):
        out, errors, code = finish(train("tiny.json", "--run-dir", "many", "--transport", "mpi", "--json", *arguments))
        expect(code == 0 and json.loads(out.splitlines()[-1])["digest"] == one["digest"], f"the digest with {arguments}", errors)
        shutil.rmtree("many")

    _, errors, code = finish(train("tiny.json", "--ranks", "3", "--transport", "mpi", "--set", "parallel.ep_size=2"))
    expect(code == 2 and errors.count("error:") == 1, "what is wrong with a config is said once", errors)
    _, errors, code = finish(train("tiny.json", "--ranks", "2", "--transport", "mpi", "--set", "data.sources=[]", "--run-dir", "none"))
    expect(code not in (0, 1) and errors.count("error:") == 1, f"what all ranks find is said once, exit {code}", errors)

    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    crowded = ["--oversubscribe"] if open_mpi else []
    both = [*crowded, "-n", "1", SWITCHYARD, "train", "tiny.json", "--run-dir", "differ", ":", "-n", "1", SWITCHYARD, "train", "tiny.json"]
    job = subprocess.Popen(["mpirun", *both, "--set", "optim.lr=0.004", "--run-dir", "differ"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           text=True, env=environment)
    _, errors, code = finish(job)
    expect(code == 4 and "the config of rank 1 on" in errors and errors.count("error:") == 1, "configs that differ are named", errors)
    job = subprocess.Popen(["mpirun", *crowded, "-n", "2", SWITCHYARD, "train", "tiny.json", "--ranks", "3", "--run-dir", "differ"],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    _, errors, code = finish(job)
    expect(code == 2 and "--ranks is 3 but the launcher has started 2" in errors, "another number of ranks is named", errors)

    if not open_mpi:
        print("skipped: this mpirun ends all ranks with the one that is killed, before they can say which it was")
    lose(1, signal.SIGKILL, 5, open_mpi)
    lose(0, signal.SIGKILL, 5, open_mpi)
    said = lose(2, signal.SIGSTOP, 16)
    expect("waited in" in said[0], "who waited, and in what")
    lose(0, signal.SIGSTOP, 16)

    job = train("tiny.json", "--ranks", "2", "--transport", "mpi", "--run-dir", "lost", "--resume", "never", *ENDLESS)
    shutil.rmtree("lost", ignore_errors=True)
    ranks_of(job, 2)
    job.send_signal(signal.SIGTERM)
    _, errors, code = finish(job)
    if code == 0 and not open_mpi:  # one end in ten; what the run itself says of its end is right
        print("skipped: the exit code, which MPICH's mpiexec has lost")
        with open("lost/status.json", encoding="utf-8") as file:
            code = json.load(file)["exit_code"]
    expect(code == 75 and os.listdir("lost/checkpoints"), "SIGTERM: a checkpoint, then exit 75", f"{code}\n{errors}")
    expect(set(os.listdir("/dev/shm")) <= shared_memory, "no shared memory is left")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        try:
            main()
        finally:
            os.chdir("/")
