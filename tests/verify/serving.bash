# Serving that client applications can lean on. Sourced by script/verify.

resident() { awk '/^RssAnon/ { print $2 * 1024 }' "/proc/$SERVER_PID/status"; }  # but for pages of program and libraries

adapters_trained() {  # four adapters of one base; each also exported, with its adapter merged in, and imported
  local work=$out/adapters i
  review-corpus --out "$work/corpus" && upload TEXTS "$work/corpus/texts.jsonl" --texts-only && upload TRAIN "$work/corpus/sentiment_train.csv" &&
    tasuki job submit --file tests/verify/adapters-base.yaml --id base --wait || return 1
  for i in 1 2 3 4; do
    STEPS=$((i * 5)) tasuki job submit --file tests/verify/adapters.yaml --id "adapter-$i" --wait && tasuki model unload "adapted@$i" &&
      tasuki model export "adapted@$i" "$work/merged-$i" && tasuki model import "$work/merged-$i" --model "merged-$i" || return 1
  done
}

adapters_served() {  # adapters_served FIGURES: bytes resident before, with all four loaded, and after 300 answers of each
  local work=$out/adapters i before
  head -n 301 "$work/corpus/sentiment_test.csv" >"$work/texts.csv"
  before=$(resident)
  for i in 1 2 3 4; do tasuki model load "adapted@$i" || return 1; done
  echo "$before $(resident)" >"$1"
  for i in 1 2 3 4; do tasuki classify --model "adapted@$i" --file "$work/texts.csv" --out "$work/adapted-$i.jsonl" || return 1; done
  resident >>"$1"
  scrape "$work/metrics.txt"
  for i in 1 2 3 4; do
    tasuki model unload "adapted@$i" && tasuki model load "merged-$i@1" &&
      tasuki classify --model "merged-$i@1" --file "$work/texts.csv" --out "$work/merged-$i.jsonl" && tasuki model unload "merged-$i@1" || return 1
  done
}

adapters() {
  local work=$out/adapters status=0
  mkdir -p "$work"
  start_server "$work" --training_priority=normal || return 1
  adapters_trained || status=1
  stop_server || status=1
  [ $status = 0 ] && start_server "$work" || return 1  # with nothing in memory that training left
  adapters_served "$work/resident.txt" || status=1
  stop_server || status=1
  [ $status = 0 ] && python3 - "$work" <<'PY'
import json, math, os, sys
work = sys.argv[1]
before, loaded, answered = map(int, open(f"{work}/resident.txt").read().split())
models = f"{work}/data/models"
base = os.path.getsize(f"{models}/base/1/model.safetensors")
adapters = sum(os.path.getsize(f"{models}/adapted/{i}/adapter/adapter_model.safetensors") for i in range(1, 5))
def answers(name):
    rows = [json.loads(line)["predictions"][0] for line in open(f"{work}/{name}.jsonl")]
    return [(row["label"], {score["label"]: math.log(score["probability"]) for score in row["scores"]}) for row in rows]
def apart(a, b): return max(abs(x[label] - y[label]) for (_, x), (_, y) in zip(a, b) for label in x)
served = [answers(f"adapted-{i}") for i in range(1, 5)]
merged = [answers(f"merged-{i}") for i in range(1, 5)]
labels = sum(a[0] != b[0] for s, m in zip(served, merged) for a, b in zip(s, m))
largest = max(apart(s, m) for s, m in zip(served, merged))
least = min(apart(served[i], served[j]) for i in range(4) for j in range(i))
ratio = (answered - before) / (base + adapters)
print(f"base {base / 1e6:.0f} MB, adapters {adapters / 1e6:.1f} MB; log p of two adapters differs by {least:.2g} or more")
print(f"resident {(loaded - before) / 1e6:.0f} MB with all four loaded, {(answered - before) / 1e6:.0f} MB after answers: {ratio:.3f} times base and adapters; "
      f"of {sum(map(len, served))} answers {labels} labels differ, log p by {largest:.1e}")
sys.exit(not (ratio <= 1.1 and labels == 0 and largest <= 1e-4 and least > 0.01 and all(map(len, served))))
PY
}

check "everything is built" cmake --build build/release
check "four LoRA versions of one base: memory at most 1.1 times base and adapters, answers equal those of the merged exports" adapters
