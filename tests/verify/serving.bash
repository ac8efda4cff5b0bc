# Serving that client applications can lean on. Sourced by script/verify.
. tests/verify/shared/small_models.bash

built() { cmake --preset release >/dev/null && cmake --build build/release; }
check "everything is built" built

# ---- Overload and mixed calls ----
client_python=${TASUKI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tasuki}/client/bin/python

# with_mini DIRECTORY COMMAND…: a server with models/mini, of random weights at size mini, loaded while COMMAND runs
with_mini() {
  local work=$1 status=1; shift
  mkdir -p "$work"
  [ -f "$out/mini/model/tasuki.json" ] || "$python" bench/model.py "$data" "$out/mini" --small || return 1
  start_server "$work" || return 1
  tasuki model import "$out/mini/model" --model mini && tasuki model load mini@1 && "$@" && status=0
  stop_server || status=1
  return $status
}

offered() {  # offered FIGURES: long texts and so few calls, that the client is small beside the server
  bench-overload "$TASUKI_SERVER" models/mini marc "$out/mini/long.txt" --seconds "$([ -n "$full" ] && echo 20 || echo 8)" >"$1" || return 1
  scrape "$out/overload/metrics.txt"
}

overload() {
  local figures=$out/overload.jsonl
  mkdir -p "$out/mini"
  python3 - "$data/marc_ja.csv" >"$out/mini/long.txt" <<'PY'
import csv, sys
text = ""  # several reviews each, so that a model looks at 512 tokens
for row in csv.DictReader(open(sys.argv[1], encoding="utf-8", newline="")):
    text += " ".join(row["text"].split()) + " "
    if len(text) > 2000:
        print(text)
        text = ""
PY
  with_mini "$out/overload" offered "$figures" || return 1
  python3 - "$figures" "$out/overload/metrics.txt" <<'PY'
import json, sys
capacity, *loads, total = map(json.loads, open(sys.argv[1]))
executed = sum(float(line.split()[1]) for line in open(sys.argv[2]) if line.startswith("tasuki_inference_expired_executions_total "))
print(f"capacity {capacity['calls_per_second']}/s, deadline {capacity['deadline_ms']} ms; useful/s " +
      ", ".join(f"{load['useful_per_second']} at {load['times']}x" for load in loads) +
      f"; {total['useful_at_5_over_most']} of the most at 5x (>= .9); p99 of {total['refused']} refusals {total['refused_p99_ms']} ms (<= 5; by load {', '.join(str(load['refused_p99_ms']) for load in loads)}); {executed:.0f} expired ones executed")
sys.exit(total["useful_at_5_over_most"] < .9 or total["refused_p99_ms"] > 5 or executed > 0)
PY
}

mixed() { "$client_python" tests/soak/mixed_calls.py "$TASUKI_SERVER" models/mini amcd "$SERVER_PID" --calls "$1"; }

check "1, 2, 5 and 10 times of what a mini model can do: useful answers, expired ones, refusals" overload
check "mixed calls: the codes expected, no leak, no crash" with_mini "$out/mixed" mixed "$([ -n "$full" ] && echo 10000 || echo 2000)"
inference_protocol() {
  local work=$out/inference-protocol status=1
  start_server "$work" || return 1
  small_models "$work" && "$python" tests/oip/inference_protocol_test.py "$TASUKI_SERVER" 2>&1 | tee "$work/checks.txt"
  [ "${PIPESTATUS[0]}" = 0 ] && status=0
  stop_server || status=1
  tail -n 1 "$work/checks.txt"
  [ $status = 0 ] && [ "$(sed -n 's/.*: \([0-9]*\) checks passed.*/\1/p' "$work/checks.txt")" -ge 30 ]
}

check "Open Inference Protocol: clients against the real server, at least 30 checks" inference_protocol
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

adapters_served() {  # adapters_served FIGURES: bytes resident before, with all four loaded, after three times 300 answers of the first, and after 300 of each other
  local work=$out/adapters i before
  head -n 301 "$work/corpus/sentiment_test.csv" >"$work/texts.csv"
  before=$(resident)
  for i in 1 2 3 4; do tasuki model load "adapted@$i" || return 1; done
  echo "$before $(resident)" >"$1"
  for i in 1 1 1 2 3 4; do  # the threads that compute and answer keep what a batch needs; after three times they have it
    tasuki classify --model "adapted@$i" --file "$work/texts.csv" --out "$work/adapted-$i.jsonl" || return 1
    [ $i = 1 ] || [ $i = 4 ] && resident >>"$1"
  done
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
before, loaded, _, _, first, answered = map(int, open(f"{work}/resident.txt").read().split())
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
ratio = (loaded - before) / (base + adapters)
print(f"base {base / 1e6:.0f} MB, adapters {adapters / 1e6:.1f} MB; log p of two adapters differs by {least:.2g} or more; batches of the first leave {(first - loaded) / 1e6:.0f} MB")
print(f"{(loaded - before) / 1e6:.0f} MB for all four, {ratio:.3f} times base and adapters; answers of the others take {(answered - first) / 1e6:.1f} MB more; "
      f"of {sum(map(len, served))} answers {labels} labels differ, log p by {largest:.1e}")
# What a batch leaves is of the one thread that computes for all versions.
sys.exit(not (ratio <= 1.1 and answered - first <= 0.1 * base and labels == 0 and largest <= 1e-4 and least > 0.01 and all(map(len, served))))
PY
}

check "four LoRA versions of one base: memory at most 1.1 times base and adapters, answers equal those of the merged exports" adapters

# ---- Models that come and go, and the end ----
often() { [ -n "$full" ] && echo "$1" || echo "$2"; }

# life TEST PATTERN: a test of tests/integration/serving_life_test.cc; the line that it prints
life() {
  TASUKI_SWAPS=$(often 200 100) TASUKI_LOADS=$(often 1024 64) TASUKI_SIGTERMS=$(often 200 20) \
    build/release/tests/integration/serving_life_test --gtest_filter="ServingLife.$1" | tee "$out/life-$1.txt"
  [ "${PIPESTATUS[0]}" = 0 ] && grep "$2" "$out/life-$1.txt"
}

access_table() {  # every RPC, every role, every kind of connection and credential
  build/release/server_test --gtest_filter='AccessTable*:RolesTable*' | tee "$out/access.txt"
  [ "${PIPESTATUS[0]}" = 0 ] && grep '\[  PASSED  \]' "$out/access.txt"
}

# Metrics count a call under its method and code, and its line in the log has the caller's trace.
traced() {
  local work=$out/traced id=0af7651916cd43dd8448eb211c80319c status=1
  start_server "$work" --log_level=debug || return 1
  ctest --test-dir build/release -R client_python_install &&
    PYTHONPATH=build/release/python "$client_python" - "$TASUKI_SERVER" "$id" <<'PY' && scrape "$work/metrics.txt" && status=0
import sys, tasuki
client = tasuki.Client(sys.argv[1], traceparent=f"00-{sys.argv[2]}-b7ad6b7169203331-01")
client.server_info()
try:
    client.classify("a text", model="nobody")
except tasuki.Error as error:
    print(type(error).__name__)
PY
  stop_server || status=1
  grep -q 'grpc_server_handled_total{grpc_code="NotFound",grpc_method="Classify".*} 1' "$work/metrics.txt" || status=1
  grep -q 'grpc_server_handled_total{grpc_code="OK",grpc_method="GetServerInfo".*} 1' "$work/metrics.txt" || status=1
  echo "$(grep -c "trace_id=$id" "$work/server.log") lines of two calls have the trace"
  [ $status = 0 ] && [ "$(grep -c "trace_id=$id" "$work/server.log")" = 2 ]
}

check "hot swaps under 64 callers, every tenth to a corrupt version: no failed call" life HotSwapsLoseNoCall ' swaps under '
check "loads and unloads by 32 threads: resident memory within 20 MB" life LoadsAndUnloadsGiveMemoryBack ' loads and unloads '
check "SIGTERM under 64 callers: no failed call, NOT_SERVING first, exit in time" life SigtermsLoseNoAcceptedCall ' SIGTERMs under '
check "every RPC by every role over every kind of connection: a table test" access_table
check "metrics and trace of each call are there" traced

client_examples() {  # on the data of a server that has models/reviews
  local work=$out/client-examples status=1
  start_server "$work" || return 1
  small_models "$work" && status=0
  stop_server && [ $status = 0 ] || return 1
  "$client_python" tests/docs/client_examples.py "$work/data" "$work/examples"
}

check "the examples of docs/clients.md run as written in Go, Java and Node, with and without TLS and a token" client_examples
