#!/bin/bash
# The program as a user runs it: train, stop, resume on other layouts, evaluate, generate, look, and go wrong.
# usage: train_test.sh SWITCHYARD REPOSITORY
set -euo pipefail
switchyard=$1
root=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

check() {  # check WHAT COMMAND...
  local what=$1
  shift
  "$@" || { echo "FAILED: $what"; exit 1; }
}
expect_exit() {  # expect_exit CODE PATTERN COMMAND...
  local code=$1 pattern=$2 got=0
  shift 2
  "$@" >out 2>err || got=$?
  [[ $got == "$code" ]] || { echo "FAILED: exit $got but expected $code: $*"; cat err; exit 1; }
  grep -q -- "$pattern" err || { echo "FAILED: no \"$pattern\" in the message of: $*"; cat err; exit 1; }
}
field() { python3 -c 'import json, sys; print(json.loads(sys.argv[1])[sys.argv[2]])' "$1" "$2"; }

for i in $(seq 1 400); do echo "line $i of a text in which $((i * 7 % 13)) follows $((i * 7 % 12)) and so on"; done >tiny.txt
cp "$root/configs/tiny.json" tiny.json

whole=$("$switchyard" train tiny.json --run-dir whole --json 2>whole.log | tail -n 1)
digest=$(field "$whole" digest)
check "20 steps were done" test "$(field "$whole" step)" = 20
check "the loss fell" python3 -c 'import json
losses = [json.loads(line)["loss"] for line in open("whole/metrics.jsonl")]
assert len(losses) == 20 and losses[-1] < losses[0] - 0.5, losses'
check "the log compares with a 3-gram model" grep -q "3-gram" whole.log

for layout in "--ranks 2" "--ranks 4 --set parallel.ep_size=2" "--threads 3" "--set train.micro_batch=16"; do
  # shellcheck disable=SC2086
  other=$("$switchyard" train tiny.json --run-dir "other" $layout --json 2>/dev/null | tail -n 1)
  check "the digest with $layout" test "$(field "$other" digest)" = "$digest"
  rm -rf other
done

# stopped after a step by a file STOP, resumed on two ranks
mkdir -p stopped && touch stopped/STOP
expect_exit 75 "stopped on request" "$switchyard" train tiny.json --run-dir stopped
rm stopped/STOP
resumed=$("$switchyard" train tiny.json --run-dir stopped --ranks 2 --resume must --json 2>/dev/null | tail -n 1)
check "the digest after a resume" test "$(field "$resumed" digest)" = "$digest"
check "every step is logged once" test "$(wc -l <stopped/metrics.jsonl)" = 20
again=$("$switchyard" train tiny.json --run-dir stopped --json 2>/dev/null | tail -n 1)
check "a finished run is left alone" test "$(field "$again" status)" = "already done"

# a disk that takes no more: training goes on, the end says so, and what was durable is still there
"$switchyard" train tiny.json --run-dir full --steps 8 >/dev/null 2>&1
(
  trap '' XFSZ
  ulimit -f 150
  expect_exit 4 "without its last checkpoint" "$switchyard" train tiny.json --run-dir full --ranks 2 --set checkpoint.every=4
)
check "each failed save is told of" test "$(grep -c "older checkpoints are untouched" err)" -ge 3
check "the run went on to its end" test "$(wc -l <full/metrics.jsonl)" = 20
check "older checkpoints are whole" "$switchyard" ckpt verify full/checkpoints/step-00000008
check "and no other is there" test "$(ls -A full/checkpoints)" = step-00000008

# a signal ends the run after the step under way, with a checkpoint
"$switchyard" train tiny.json --run-dir signalled --ranks 2 --set train.stop.steps=1000000 >/dev/null 2>&1 &
training=$!
for _ in $(seq 100); do [[ -s signalled/metrics.jsonl ]] && break || sleep 0.1; done
kill -TERM "$training"
code=0
wait "$training" || code=$?
check "a signalled run exits with 75, not $code" test "$code" = 75
check "and has saved" test -n "$(ls signalled/checkpoints)"

checkpoint=whole/checkpoints/step-00000020
check "the checkpoint is whole" "$switchyard" ckpt verify "$checkpoint"
"$switchyard" ckpt info "$checkpoint" | grep -q "$digest"
"$switchyard" experts whole | grep -q "max/mean (chance)"
"$switchyard" eval whole --json >eval.json
"$switchyard" eval whole --data tiny.txt --json >eval_file.json
check "evaluation" python3 -c 'import json
sets = json.load(open("eval.json"))["sets"]
assert sets[0]["set"] == "held_out" and sets[0]["three_gram_bpb"] > 0 and sets[0]["tokens"] > 1000, sets
assert json.load(open("eval_file.json"))["sets"][0]["tokens"] == len(open("tiny.txt").read()) - 1'
one=$("$switchyard" generate whole -p "line 1" --max-tokens 50 --seed 3 --json)
two=$("$switchyard" generate "$checkpoint" -p "line 1" --max-tokens 50 --seed 3 --threads 1 --json)
check "the same seed, the same text" test "$(field "$one" text)" = "$(field "$two" text)"
check "overfitting one batch" python3 -c 'import json, subprocess, sys
subprocess.run([sys.argv[1], "train", "tiny.json", "--overfit-batch", "--run-dir", "over", "--steps", "60", "--set", "optim.lr=1e-2"], check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
losses = [json.loads(line)["loss"] for line in open("over/metrics.jsonl")]
assert losses[-1] < 1.0, losses[-1]' "$switchyard"

# evaluation holds out what training held out, wherever config and program stand
mkdir -p project/texts
python3 -c 'import random
random.seed(3)
for i in range(60):
    open(f"project/texts/{i}.txt", "w").write(" ".join(f"w{random.randrange(4000)}" for _ in range(250)))
config = open("tiny.json").read()
open("project/c.json", "w").write(config)'
groups=(--set 'data.sources=[{"name": "t", "files": "texts/*.txt"}]' --set data.held_out.split=groups)
"$switchyard" train project/c.json --run-dir grouped "${groups[@]}" >/dev/null 2>&1
"$switchyard" eval grouped --json --no-baselines >near.json
(cd / && "$switchyard" eval "$work/grouped" --json --no-baselines) >far.json
check "eval reads the held-out text of training" python3 -c 'import json
trained = json.loads(open("grouped/eval.jsonl").readlines()[-1])["sets"][0]
for name in ("near.json", "far.json"):
    evaluated = json.load(open(name))["sets"][0]
    assert (evaluated["tokens"], evaluated["loss"]) == (trained["tokens"], trained["loss"]), (name, evaluated, trained)'

expect_exit 2 'did you mean "train"' "$switchyard" trian tiny.json
expect_exit 2 "cannot be read" "$switchyard" train nothing.json
expect_exit 2 'unknown key "batch_token"' "$switchyard" train tiny.json --set train.batch_token=1
expect_exit 2 "there are 5 ranks" "$switchyard" train tiny.json --ranks 5 --run-dir x
expect_exit 3 "matches no file" "$switchyard" train tiny.json --run-dir x --set data.sources[0].files=none.txt
expect_exit 4 "this build has no CUDA" "$switchyard" train tiny.json --device cuda
expect_exit 6 "no whole checkpoint" "$switchyard" eval .
expect_exit 6 "nothing is overwritten" "$switchyard" train tiny.json --run-dir whole --resume never
expect_exit 6 "no checkpoint" "$switchyard" train tiny.json --run-dir fresh --resume must
expect_exit 6 "may not change" "$switchyard" train tiny.json --run-dir whole --set train.stop.steps=30 --set seed=8
printf 'x' | dd of="$checkpoint/state.json" bs=1 seek=5 conv=notrunc 2>/dev/null
expect_exit 6 "state.json is damaged" "$switchyard" ckpt verify "$checkpoint"
exec 9>stopped/LOCK && flock 9
expect_exit 8 "is in use" "$switchyard" train tiny.json --run-dir stopped
echo "every use and every mistake ended as it should"
