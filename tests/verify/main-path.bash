# The main path: submit a job, watch it, classify with what it trained. Sourced by script/verify.

# figures FILE: task, accuracy, macro F1 and the majority class of each label evaluation in the answer
# of `tasuki --output json job compare`.
figures() {
  python3 - "$1" "${2:-}" <<'PY'
import json, sys
jobs = json.load(open(sys.argv[1]))["training_jobs"]
for job in jobs:
    for e in job.get("evaluations", []):
        if e["method"] == "LABEL":
            print(job["name"].split("/")[1], e["task"], *(round(e.get(k, 0), 4) for k in
                  ("accuracy", "macro_f1", "majority_accuracy", "majority_macro_f1")))
PY
}

bootstrap() { script/bootstrap --dev --tools --peers; }

build_and_test() {
  script/test || return 1
  ctest --test-dir build/release -N | tail -n 1
}

full_build() (  # without a cache, in a directory of its own; the figure is printed
  local directory=$out/build begin=$SECONDS binaries tests
  export CCACHE_DISABLE=1
  cmake --preset release -B "$directory" || return 1
  cmake --build "$directory" --target tasukid tasuki-trainer tasuki -j2 || return 1
  binaries=$((SECONDS - begin))
  cmake --build "$directory" -j2 || return 1
  tests=$((SECONDS - begin))
  rm -rf "$directory"
  echo "binaries $binaries s (limit 360), with the tests $tests s (limit 720)"
  [ $binaries -lt 360 ] && [ $tests -lt 720 ]
)

demo_learns() {
  script/demo --keep "$out/demo" | tee "$out/demo.txt"
  [ "${PIPESTATUS[0]}" = 0 ] || return 1
  local seconds; seconds=$(sed -n 's/.*the demo took \([0-9]*\) s.*/\1/p' "$out/demo.txt")
  figures "$out/demo/comparison.json" | tee "$out/demo.figures"
  awk '$1 == "multi-task" { n++; if ($4 < .85) bad = 1; s = s sprintf("%s macro F1 %.4f (majority %.4f)  ", $2, $4, $6) }
       END { print s "in '"$seconds"' s after the build (limit 240)"; exit bad || n != 2 }' "$out/demo.figures" &&
    [ "$seconds" -lt 240 ]
}

demo_is_not_trivial() {
  local corpus=$out/demo/corpus
  { "$python" bench/study/baseline.py "$corpus/counterfactual_train.tsv" "$corpus/counterfactual_test.tsv" --text sentence --label is_counterfactual --name counterfactual --json &&
    "$python" bench/study/baseline.py "$corpus/sentiment_train.csv" "$corpus/sentiment_test.csv" --name sentiment --json; } | tee "$out/demo.baselines" || return 1
  python3 - "$out/demo.baselines" <<'PY'
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
rows = [row for row in rows if row["baseline"].startswith("TF-IDF")]
print("TF-IDF + logistic regression:", ", ".join(f"{r['task']} macro F1 {r['macro_f1']}" for r in rows))
sys.exit(len(rows) != 2 or any(r["macro_f1"] >= .98 for r in rows))
PY
}

learns_64_real_rows() {
  [ -f "$data/amcd_train.tsv" ] || { echo "no data in $data"; return 1; }
  local work=$out/rows64 status=1
  mkdir -p "$work"
  "$python" bench/study/data.py "$data" "$work" || return 1
  python3 - "$data" "$work" <<'PY' || return 1
import csv, itertools, json, sys
data, work = sys.argv[1:]
amcd = list(csv.DictReader(open(f"{data}/amcd_train.tsv", encoding="utf-8", newline=""), delimiter="\t"))
amcd = [r for r in amcd if r["is_counterfactual"] == "1"][:32] + [r for r in amcd if r["is_counterfactual"] == "0"][:32]
marc = list(csv.DictReader(open(f"{work}/marc_train.csv", encoding="utf-8", newline="")))[:64]
for name, rows, keys in (("amcd64", amcd, ("sentence", "is_counterfactual")), ("marc64", marc, ("text", "label"))):
    with open(f"{work}/{name}.jsonl", "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({"text": row[keys[0]], "label": row[keys[1]]}, ensure_ascii=False) + "\n")
PY
  start_server "$work" || return 1
  upload TEXTS "$work/texts.jsonl" --texts-only &&
    upload AMCD64 "$work/amcd64.jsonl" && upload MARC64 "$work/marc64.jsonl" &&
    tasuki job submit --file tests/verify/rows64-pretrain.yaml --id pretrain --wait &&
    tasuki job submit --file tests/verify/rows64.yaml --id rows64 --wait &&
    tasuki --output json job compare rows64 >"$work/comparison.json" && status=0
  stop_server || status=1
  [ $status = 0 ] || return 1
  figures "$work/comparison.json" | awk '{ n++; s = s sprintf("%s accuracy %s  ", $2, $3); if ($3 != 1) bad = 1 } END { print s; exit bad || n != 2 }'
}

integration_tests() {  # one program that drives the real ones; its cases are counted
  build/release/tests/integration/integration_test | tee "$out/integration.txt"
  [ "${PIPESTATUS[0]}" = 0 ] || return 1
  local name
  for name in Kill Crash Disk; do grep -q "\[       OK \].*$name" "$out/integration.txt" || { echo "no test of $name"; return 1; }; done
  grep '\[  PASSED  \]' "$out/integration.txt"
}

alone_and_in_batches() {
  TASUKI_BATCHES=1000 build/release/model_t5_test --gtest_filter='*RandomBatches*' | tee "$out/batches.txt"
  [ "${PIPESTATUS[0]}" = 0 ] && grep 'largest difference' "$out/batches.txt"
}

speaks_standard() {
  local work=$out/standard status=0
  start_server "$work" || return 1
  { grpcurl -plaintext "$TASUKI_SERVER" list && grpcurl -plaintext "$TASUKI_SERVER" grpc.health.v1.Health/Check; } | tee "$work/grpcurl.txt" || status=1
  scrape "$work/metrics.txt" && promtool check metrics <"$work/metrics.txt" || status=1
  stop_server || status=1
  for service in Dataset Training Model Classification Server; do grep -q "^tasuki.v1.${service}Service$" "$work/grpcurl.txt" || status=1; done
  grep -q '"status": "SERVING"' "$work/grpcurl.txt" || status=1
  echo "$(grep -c '^tasuki.v1' "$work/grpcurl.txt") services listed, health $(sed -n 's/.*"status": "\(.*\)".*/\1/p' "$work/grpcurl.txt"), promtool silent over $(grep -vc '^#' "$work/metrics.txt") series"
  return $status
}

proto_is_clean() {  # buf wants every import in its module: google's files are laid beside a copy
  local module=$out/buf cache=${TASUKI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tasuki}
  mkdir -p "$module" && cp -r proto/. "$cache/googleapis-1.76.0/google" "$module/" || return 1
  (cd "$module" && buf lint --path tasuki) && echo "silent over $(find proto -name '*.proto' | wc -l) files"
}

design_names_what_is_there() {  # every path that docs/design.md names in code font exists
  local missing=0 count=0 path
  for path in $(grep -o '`[a-z_]*/[A-Za-z0-9_./-]*`' docs/design.md | tr -d '`' | sort -u); do
    case $path in model/*|server/*|client/*|tests/*|script/*|docs/*|demo/*|proto/*|bench/*) ;; *) continue ;; esac
    count=$((count + 1))
    [ -e "$path" ] || { echo "not there: $path"; missing=1; }
  done
  echo "$count paths named, all there"
  return $missing
}

study() {
  script/study --data "$data" --work "$out/study" || return 1
  figures "$out/study/comparison.json" | tee "$out/study.figures"
  awk '$1 == "multi-task" { n++; s = s sprintf("%s accuracy %.4f macro F1 %.4f (majority %.4f, %.4f)  ", $2, $3, $4, $5, $6)
         if ($2 == "amcd" && $4 <= .60) bad = 1; if ($2 == "marc" && $3 <= .55) bad = 1 }
       END { print s; exit bad || n != 2 }' "$out/study.figures"
}

bare_machine() {
  local tool=${FRESH_MACHINE:-../shared/tools/fresh-machine}
  [ -x "$tool" ] || { echo "set FRESH_MACHINE to a program that runs README's two commands on a bare Debian 12"; return 1; }
  FRESH_LOG=$out/fresh FRESH_ROOT=$out/fresh-root "$tool" . | tee "$out/fresh.txt"
  local status=${PIPESTATUS[0]}
  rm -rf --one-file-system "$out/fresh-root"
  grep -E '^(demo|test): exit' "$out/fresh.txt" | paste -sd' '
  return "$status"
}

check "bootstrap --dev --tools --peers" bootstrap
check "script/test" build_and_test
check "full build on $(nproc) cores without a cache" full_build
check "script/demo ends, and the multi-task model reaches macro F1 .85 on both unseen tests" demo_learns
check "the demo's rows are not solved by TF-IDF alone (macro F1 < .98)" demo_is_not_trivial
check "a model trains on 64 real rows of each task and is right on all of them" learns_64_real_rows
check "kill -9 of trainer and server, crash loop, full disk (integration tests)" integration_tests
check "a text's scores alone and in 1,000 random batches agree within 1e-4 on mini" alone_and_in_batches
check "reflection, health, promtool check metrics" speaks_standard
check "buf lint" proto_is_clean
check "include rules hold" tests_named '^Layering' 1
check "docs/design.md names what is there" design_names_what_is_there
if [ -n "$full" ]; then
  check "script/study on real data: AMCD macro F1 > .60, MARC accuracy > .55" study
  check "README's two commands on a bare Debian 12" bare_machine
fi
