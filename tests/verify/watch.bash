# Watching and running it: metrics, dashboards, alerts, container, Kubernetes, bundle. Sourced by script/verify.
. tests/verify/shared/small_models.bash

built() { script/bootstrap --dev && cmake --preset release >/dev/null && cmake --build build/release; }
check "everything is built" built

# ---- Metrics, dashboards, alerts ----
# prometheus_beside DIRECTORY: a Prometheus with our rules that scrapes the server; sets PROMETHEUS and PROMETHEUS_PID
prometheus_beside() {
  local port
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  mkdir -p "$1/prometheus"
  sed -e "s|127.0.0.1:9500|$METRICS|; s|rules/|$PWD/deploy/prometheus/rules/|" \
    -e 's/scrape_interval: .*/scrape_interval: 2s/; s/evaluation_interval: .*/evaluation_interval: 5s/' \
    deploy/prometheus/prometheus.yml >"$1/prometheus/prometheus.yml"
  prometheus --config.file="$1/prometheus/prometheus.yml" --storage.tsdb.path="$1/prometheus/data" \
    --web.listen-address="127.0.0.1:$port" >"$1/prometheus/log" 2>&1 &
  PROMETHEUS_PID=$!
  PROMETHEUS=http://127.0.0.1:$port
}

# load SECONDS: what the panels are about. A job is refused, a long one runs and its trainer is killed once, one more
# waits; calls are right and wrong, short and cut.
load() {
  local texts i end
  texts=$(printf 'とても良い商品でした。%.0s' $(seq 60))
  tasuki alias set mood@production mood@1 && tasuki alias shadow mood@production mood@2 || return 1
  sed 's/steps: 1000000/steps: 5, learning_rate: 1e30, optimizer: ADAMW/' tests/verify/watch-long.yaml >"$out/watched/bad.yaml"
  tasuki job submit --file "$out/watched/bad.yaml" --id bad --wait && return 1
  tasuki job submit --file tests/verify/watch-long.yaml --id long || return 1
  tasuki job submit --file tests/verify/watch-long.yaml --id waits || return 1
  end=$((SECONDS + $1))
  for ((i = 0; SECONDS < end; ++i)); do
    tasuki classify --model mood@production "3日前に届いた本は最高です。" "普通です。" >/dev/null || return 1
    tasuki classify --model reviews "$texts" >/dev/null || return 1
    tasuki classify --model nobody "x" >/dev/null 2>&1 && return 1
    [ $i = 20 ] && kill -KILL "$(pgrep -P "$SERVER_PID" tasuki-trainer)"
    sleep .3
  done
}

watched() {
  local work=$out/watched status=1
  mkdir -p "$work"
  start_server "$work" && prometheus_beside "$work" || return 1
  sleep 6  # what is counted next is an increase
  if small_models "$work" && load 90; then
    "$python" tests/watch/panels.py "$PROMETHEUS" --range 2m --scrape-interval 2s --draw "$work/dashboards" | tee "$work/panels.txt"
    status=${PIPESTATUS[0]}
    scrape "$work/metrics.txt"
  fi
  kill "$PROMETHEUS_PID"; wait "$PROMETHEUS_PID"
  stop_server || status=1
  tail -n 1 "$work/panels.txt"
  return "$status"
}

drawn() {  # people look at them; here only that each dashboard has its picture
  local pictures; pictures=$(find "$out/watched/dashboards" -name '*.png' -size +0 | wc -l)
  echo "$pictures pictures in build/verify/watch/watched/dashboards"
  [ "$pictures" = "$(ls deploy/grafana/dashboards/*.json | wc -l)" ]
}

metrics_checked() {
  promtool check metrics <"$out/watched/metrics.txt" >"$out/promtool.txt" 2>&1 || return 1
  echo "promtool said $(wc -c <"$out/promtool.txt") bytes about $(grep -vc '^#' "$out/watched/metrics.txt") series"
  [ ! -s "$out/promtool.txt" ]
}

thousand_jobs() {
  TASUKI_JOBS=1000 build/release/server_jobs_test --gtest_filter='JobsTest.JobsThatEndedLeaveNoSeries' | tee "$out/jobs.txt"
  [ "${PIPESTATUS[0]}" = 0 ] && grep ' series after ' "$out/jobs.txt"
}

twenty_models() {
  build/release/server_rpc_test --gtest_filter='CallObserver.TwentyModelsTakeFewerThan5000Series' | tee "$out/models.txt"
  [ "${PIPESTATUS[0]}" = 0 ] && grep ' series of ' "$out/models.txt"
}

cost() {  # of the updates of a request of one text, beside the passes of models of 1 layer and 32 dimensions
  build/release/bin/bench-metrics >"$out/cost.json" || return 1
  python3 - "$out/cost.json" "$out/watched/metrics.txt" <<'PY'
import json, re, sys
micro = json.load(open(sys.argv[1]))["microseconds_per_request"]
sums = {}
for line in open(sys.argv[2]):
    m = re.match(r'tasuki_inference_stage_seconds_(sum|count)\{.*stage="(encode|decode)"\} (\S+)', line)
    if m:
        sums[m[1], m[2]] = sums.get((m[1], m[2]), 0) + float(m[3])
passes = (sums["sum", "encode"] + sums["sum", "decode"]) / sums["count", "encode"] * 1e6
print(f"{micro:.2f} microseconds a request, {micro / passes:.2%} of the mean pass of {passes:.0f} (<= 1 %)")
sys.exit(micro / passes > .01)
PY
}

check "a load, a real Prometheus: every panel's and annotation's query of every dashboard has data" watched
check "every dashboard is drawn with real data" drawn
check "promtool check metrics is silent" metrics_checked
check "rules and alerts: promtool check and test, three cases an alert, a runbook each" tests_named '^deploy_alerts$' 1
check "series after 1,000 jobs: flat" thousand_jobs
check "series with 20 models: fewer than 5,000" twenty_models
check "metrics cost at most 1 % of the smallest request" cost

bundle() { tests/deploy/bundle_test; }

check "the bundle unpacks and runs on a bare Debian 12" bundle

# ---- Container, compose, Kubernetes ----
check "the image: built from the Dockerfile, run read-only as its user, its HEALTHCHECK and a classify call, under 1.2 GB" tests/deploy/image_test
check "compose.yaml: read as Docker Compose does, and what it names is there" tests/deploy/compose_test
check "every overlay is accepted by a Kubernetes API server: strictly, under Pod Security restricted, without a warning" \
  tests/deploy/kubernetes_test "${TASUKI_KUBERNETES_TOOLS:-../shared/tools/kubernetes-api}"
