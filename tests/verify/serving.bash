# Serving that client applications can lean on. Sourced by script/verify.

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

offered() {  # offered FIGURES: long texts, so that the client is small beside the server
  bench-overload "$TASUKI_SERVER" models/mini marc "$out/mini/long.txt" --seconds "$([ -n "$full" ] && echo 20 || echo 8)" >"$1" || return 1
  scrape "$out/overload/metrics.txt"
}

overload() {
  local figures=$out/overload.jsonl
  mkdir -p "$out/mini"
  python3 - "$data/marc_ja.csv" >"$out/mini/long.txt" <<'PY'
import csv, sys
texts = (" ".join(row["text"].split()) for row in csv.DictReader(open(sys.argv[1], encoding="utf-8", newline="")))
for text, _ in zip((text for text in texts if len(text) > 700), range(256)):
    print(text)
PY
  with_mini "$out/overload" offered "$figures" || return 1
  python3 - "$figures" "$out/overload/metrics.txt" <<'PY'
import json, sys
capacity, *loads, total = map(json.loads, open(sys.argv[1]))
executed = sum(float(line.split()[1]) for line in open(sys.argv[2]) if line.startswith("tasuki_inference_expired_executions_total "))
slowest = max(load["refused_p99_ms"] for load in loads)
print(f"capacity {capacity['calls_per_second']}/s, deadline {capacity['deadline_ms']} ms; useful/s " +
      ", ".join(f"{load['useful_per_second']} at {load['times']}x" for load in loads) +
      f"; {total['useful_at_5_over_most']} of the most at 5x (>= .9); refusals p99 {slowest} ms (<= 5); {executed:.0f} expired ones executed")
sys.exit(total["useful_at_5_over_most"] < .9 or slowest > 5 or executed > 0)
PY
}

mixed() { "$client_python" tests/soak/mixed_calls.py "$TASUKI_SERVER" models/mini amcd "$SERVER_PID" --calls "$1"; }

check "1, 2, 5 and 10 times of what a mini model can do: useful answers, expired ones, refusals" overload
check "mixed calls: the codes expected, no leak, no crash" with_mini "$out/mixed" mixed "$([ -n "$full" ] && echo 10000 || echo 2000)"
# small_models DIRECTORY: on the server, a base that has learnt nothing, mood@1 and mood@2 (one task) and
# reviews@1 (two tasks), in seconds.
small_models() {
  python3 - "$1" <<'PY' || return 1
import json, sys
things = "カメラ 椅子 本 鞄 時計 靴 傘 机".split()
rows = {
    "mood": [(f"{day}日前に届いた{thing}は{end}", label) for thing in things for day in range(1, 4)
             for end, label in (("最高です。", "positive"), ("普通です。", "neutral"), ("壊れていました。", "negative"))],
    "counterfactual": [(f"{price}000円の{thing}{end}", label) for thing in things for price in range(1, 5)
                       for end, label in (("がもっと軽ければ買ったのに。", "1"), ("は軽いので買いました。", "0"))],
}
for name, pairs in rows.items():
    with open(f"{sys.argv[1]}/{name}.jsonl", "w", encoding="utf-8") as file:
        for text, label in pairs:
            file.write(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n")
PY
  local job SEED=0
  export SEED
  upload MOOD "$1/mood.jsonl" && upload COUNTERFACTUAL "$1/counterfactual.jsonl" || return 1
  for job in base mood mood reviews; do
    SEED=$((SEED + 1))  # another each time: no two versions are the same
    tasuki job submit --file "tests/verify/serving-$job.yaml" --wait || return 1
  done
}

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
