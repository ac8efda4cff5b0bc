#!/usr/bin/env python3
"""Makes the Grafana dashboards beside it: deploy/grafana/dashboards/*.json.

usage: deploy/grafana/generate.py [--check]
  --check   writes nothing, and fails if a file there is not what would be written

Each dashboard is a table of rows and panels below; everything that panels have in common is said once. In queries, {@ stands for
the scrape job and instance that are chosen on the dashboard, {@m for these and the model, {@t for these and the training job,
and [R] for [$__rate_interval]. A panel whose text ends in one of NEEDS may be empty where that is not there.

The label `job` is Prometheus' own, the name of the scrape configuration. Series of a training job come with a label `job` as well, which
Prometheus renames to `exported_job` unless `honor_labels` is true. The dashboards want it to be false, as it is if nothing is said: then
every series, and every alert, has the scrape job and instance that it came from, and the dashboards work with any scrape configuration.
"""

import json
import re
import sys
from pathlib import Path

DIRECTORY = Path(__file__).resolve().parent / "dashboards"
NEEDS = ("Needs a GPU.", "Needs TLS.", "Empty while no alert fires.")

# --- What panels are made of ---------------------------------------------------------------------------------------------------

TRAINING_JOB = "exported_job"  # the label that names a training job
SELECTORS = {"": "", "m": ', model=~"$model"', "t": f', {TRAINING_JOB}=~"$training_job"'}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def query(text):
    text = text.replace("training_job)", f"{TRAINING_JOB})")
    text = re.sub(r"\{@([mt]?)", lambda match: '{job=~"$job", instance=~"$instance"' + SELECTORS[match[1]], text)
    return re.sub(r",(?=\w+[=!])", ", ", text.replace("[R]", "[$__rate_interval]"))


def version(text):
    """models/reviews/versions/3 as reviews@3, in the label `version`."""
    return f'label_replace({text}, "version", "$1@$2", "model", "models/(.+)/versions/(.+)")'


def training(text):
    """trainingJobs/reviews as reviews, in the label `name`."""
    return f'label_replace({text}, "name", "$1", "{TRAINING_JOB}", "trainingJobs/(.+)")'


def quantile(share, name, by="", selector="{@}", labels=""):
    selector = selector.replace("}", f"{',' if labels else ''}{labels}}}")
    return f"histogram_quantile({share}, sum by (le{', ' if by else ''}{by}) (rate({name}_bucket{selector}[R])))"


def quantiles(name, selector="{@}", labels=""):
    return [(f"p{share[2:].ljust(2, '0')}", quantile(share, name, "", selector, labels)) for share in ("0.5", "0.95", "0.99")]


def steps(text):
    """'green .5 yellow .8 red' as thresholds."""
    words = text.split()
    found = [{"color": words[0], "value": None}]
    for value, color in zip(words[1::2], words[2::2]):
        found.append({"color": color, "value": float(value)})
    return {"mode": "absolute", "steps": found}


def field(name, **properties):
    """What one column or series has of its own; a name of the form /.../ is a regular expression."""
    by = "byRegexp" if name.startswith("/") else "byName"
    return {"matcher": {"id": by, "options": name}, "properties": [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()]}


def values(**texts):
    """value=(text, color) as a mapping, with names such as v0 for the value 0."""
    options = {key[1:]: {"index": i, "text": text, "color": color} for i, (key, (text, color)) in enumerate(texts.items())}
    return [{"type": "value", "options": options}]


def fixed(**colors):
    """Series that have one color everywhere: what is good is green, and what is bad is not."""
    return [field(name, color={"mode": "fixed", "fixedColor": color}) for name, color in colors.items()]


LIMIT = {"custom__lineStyle": {"fill": "dash", "dash": [10, 10]}, "custom__fillOpacity": 0, "custom__stacking": {"mode": "none", "group": "B"},
         "color": {"mode": "fixed", "fixedColor": "red"}}
REDUCE = {"calcs": ["lastNotNull"], "fields": "", "values": False}


def panel(kind, title, width, height, unit, text, targets, options, custom=None, thresholds="green", minimum=None, maximum=None, overrides=(),
          mappings=(), no_value=None, decimals=None, instant=False, data="time_series", links=(), transformations=(), palette="palette-classic"):
    defaults = {"unit": unit, "color": {"mode": palette}, "thresholds": steps(thresholds), "mappings": list(mappings), "custom": custom or {}}
    for key, value in (("min", minimum), ("max", maximum), ("noValue", no_value), ("decimals", decimals)):
        if value is not None:
            defaults[key] = value
    queries = []
    for i, (legend, expression) in enumerate(targets):
        queries.append({"refId": chr(ord("A") + i), "datasource": DATASOURCE, "editorMode": "code", "expr": query(expression), "legendFormat": legend,
                        "format": data, "instant": instant, "range": not instant})
    return {"type": kind, "title": title, "description": text, "datasource": DATASOURCE, "gridPos": {"w": width, "h": height},
            "fieldConfig": {"defaults": defaults, "overrides": list(overrides)}, "options": options, "targets": queries,
            "transformations": list(transformations),
            "links": [{"title": name, "url": f"/d/tasuki-{uid}?${{__url_time_range}}&${{__all_variables}}"} for name, uid in links]}


def tile(title, unit, text, expression, thresholds="blue", background=False, graph=True, height=4, legend=None, **more):
    """One figure: green, yellow and red where they mean something, blue where they do not."""
    return panel("stat", title, 3, height, unit, text, [(legend or title, expression)],
                 {"reduceOptions": REDUCE, "colorMode": "background" if background else "value", "graphMode": "area" if graph else "none",
                  "justifyMode": "center", "orientation": "auto", "textMode": "name" if legend else "value", "wideLayout": True},
                 thresholds=thresholds, palette="thresholds", instant=not graph, **more)


def lines(title, width, unit, text, *targets, stack=None, fill=10, lines_at=None, calcs=("mean", "max", "lastNotNull"), minimum=0, log=False, height=8, **more):
    custom = {"drawStyle": "line", "lineInterpolation": "linear", "lineWidth": 1, "fillOpacity": 60 if stack else fill, "showPoints": "auto", "pointSize": 4,
              "spanNulls": False, "axisPlacement": "auto", "axisLabel": "", "stacking": {"mode": stack or "none", "group": "A"},
              "thresholdsStyle": {"mode": "dashed" if lines_at else "off"}}
    if log:
        custom["scaleDistribution"] = {"type": "log", "log": 10}
    return panel("timeseries", title, width, height, unit, text, targets,
                 {"legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": list(calcs)},
                  "tooltip": {"mode": "multi", "sort": "desc"}}, custom, thresholds=lines_at or "green", minimum=None if log else minimum, **more)


def heat(title, width, unit, text, name, selector="{@}", labels=""):
    selector = selector.replace("}", f"{',' if labels else ''}{labels}}}")
    return panel("heatmap", title, width, 8, unit, text, [("{{le}}", f"sum by (le) (increase({name}_bucket{selector}[R]))")],
                 {"calculate": False, "cellGap": 1, "color": {"mode": "scheme", "scheme": "Oranges", "exponent": 0.5, "steps": 64, "reverse": False},
                  "exemplars": {"color": "rgba(255,0,255,0.7)"}, "filterValues": {"le": 1e-9}, "legend": {"show": True}, "rowsFrame": {"layout": "auto"},
                  "showValue": "never", "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": True},
                  "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit}, "cellValues": {"unit": "short"}},
                 {"scaleDistribution": {"type": "linear"}, "hideFrom": {"legend": False, "tooltip": False, "viz": False}}, data="heatmap")


def bars(title, width, text, legend, expression, thresholds="blue", **more):
    """Whole numbers over the range that is shown."""
    return panel("bargauge", title, width, 8, "none", text, [(legend, expression)],
                 {"reduceOptions": REDUCE, "displayMode": "basic", "orientation": "horizontal", "valueMode": "color", "showUnfilled": True,
                  "namePlacement": "auto", "sizing": "auto", "minVizWidth": 8, "minVizHeight": 16, "maxVizHeight": 300},
                 thresholds=thresholds, palette="thresholds", instant=True, minimum=0, decimals=0, **more)


def table(title, width, height, text, columns, hidden=(), **more):
    """Columns are (title, query, what the column has of its own), or (title, None, label)."""
    count = sum(1 for _, expression, _ in columns if expression)
    targets, names, overrides = [], [], []
    for name, expression, rest in columns:
        if expression:
            names.append(f"Value #{chr(ord('A') + len(targets))}" if count > 1 else "Value")
            targets.append(("", expression))
            overrides.append(field(name, **rest))
        else:
            names.append(rest)
    organize = {"excludeByName": {name: True for name in ("Time", *hidden)}, "renameByName": {source: column[0] for source, column in zip(names, columns)},
                "indexByName": {source: i for i, source in enumerate(names)}}
    return panel("table", title, width, height, "none", text, targets,
                 {"showHeader": True, "cellHeight": "sm", "footer": {"show": False, "reducer": ["sum"], "countRows": False, "fields": ""},
                  "sortBy": [{"displayName": columns[0][0], "desc": False}]},
                 {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}, overrides=overrides, instant=True, data="table",
                 transformations=[{"id": "merge", "options": {}}, {"id": "organize", "options": organize}], palette="thresholds", **more)


def states(title, width, text, legend, expression, mappings, height=8):
    return panel("state-timeline", title, width, height, "none", text, [(legend, expression)],
                 {"mergeValues": True, "showValue": "never", "alignValue": "left", "rowHeight": 0.8,
                  "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}, "tooltip": {"mode": "single", "sort": "none"}},
                 {"lineWidth": 0, "fillOpacity": 80}, mappings=mappings, palette="thresholds")


def mark(name, color, expression, title, text="", tags="", at_value=False, enable=True):
    """An annotation: wherever the query has a value over 0, or at the time that its value says."""
    found = {"name": name, "datasource": DATASOURCE, "enable": enable, "hide": False, "iconColor": color, "expr": query(expression), "step": "15s",
             "titleFormat": title, "textFormat": text, "tagKeys": tags}
    if at_value:
        found["useValueForTime"] = True
    return found


# --- Marks: what happened, drawn into every graph ---------------------------------------------------------------------------------

RESTARTS = mark("Server starts", "purple", "process_start_time_seconds{@} * 1000", "Server started", "{{instance}}",
                at_value=True)
ALERTS = mark("Alerts", "red", 'ALERTS{alertname=~"Tasuki.+",alertstate="firing"}', "{{alertname}}", "{{severity}}", "severity")
LOADS = mark("Model loads", "blue", "sum by (result) (increase(tasuki_model_loads_total{@}[R])) > 0", "Model load: {{result}}")
ALIASES = mark("Alias changes", "light-blue", "sum by (instance) (increase(tasuki_alias_changes_total{@}[R])) > 0", "An alias was pointed to a version")
FINISHED = mark("Jobs that ended", "green", "sum by (state, reason) (increase(tasuki_jobs_finished_total{@}[R])) > 0", "Job {{state}}", "reason {{reason}}",
     "state,reason")
ATTEMPTS = mark("Trainer starts", "orange", "sum by (cause) (increase(tasuki_job_attempts_total{@}[R])) > 0", "A trainer started, cause {{cause}}",
     tags="cause")
CHECKPOINTS = mark("Checkpoints", "yellow", training("tasuki_checkpoint_last_success_timestamp_seconds{@t} * 1000"), "Checkpoint of {{name}}", at_value=True,
                   enable=False)  # many: a click shows them

# --- The dashboards ---------------------------------------------------------------------------------------------------------------

CODES = fixed(OK="green", Canceled="light-blue", InvalidArgument="yellow", NotFound="blue", ResourceExhausted="orange", DeadlineExceeded="dark-orange",
              Unavailable="purple", Internal="red", Unknown="red", DataLoss="dark-red")
STATES = fixed(RUNNING="green", QUEUED="blue", PAUSED="yellow", CANCELLING="orange")
LEVELS = fixed(error="red", warning="yellow", info="green", debug="blue")
CALLS = 'grpc_method=~"Classify|ModelInfer"'
HANDLING = "grpc_server_handling_seconds"
STAGE = "tasuki_inference_stage_seconds"
GOOD_WHEN_LOW = "green .5 yellow .8 red"


def budget_left(slo, objective):
    return f"1 - max(tasuki:slo_{slo}:ratio_rate3d{{@}}) / (1 - max(tasuki:slo_{objective}:objective))"


def burn(slo, objective):
    return [(window, f"max(tasuki:slo_{slo}:ratio_rate{window}{{@}}) / scalar(1 - max(tasuki:slo_{objective}:objective))") for window in ("5m", "1h", "6h",
         "3d")]


MEMORY = ("max((process_resident_memory_bytes{@} + tasuki_trainer_resident_memory_bytes{@} or process_resident_memory_bytes{@}) / "
          "tasuki_memory_limit_bytes{@})")

OVERVIEW = [
    tile("Server", "none",
         "Whether the server answers its health check with SERVING, and whether Prometheus reaches it. Normal: serving. If not: look whether the process runs "
         "and what its log says; while it drains before a stop it says NOT SERVING as well.",
         'min(tasuki_health_serving{@,service="tasukid"} or on (job, instance) up{@})', "red 1 green", True, False,
         mappings=values(v0=("NOT SERVING", "red"), v1=("Serving", "green")), no_value="no server", links=[("Store and host", "store-and-host")]),
    tile("Alerts", "none",
         "Alerts that fire now, pages and tickets. Normal: 0. Each has a runbook in docs/operations.md; which they are is in the table below.",
         'count(ALERTS{alertname=~"Tasuki.+",alertstate="firing",severity=~"page|ticket"}) or vector(0)', "green 1 red", True, False),
    tile("Error budget, 3 days", "percentunit",
         "What is left of the failures that the objective of availability allows in 3 days: of the last 3, not of the 30 that the objective is about. "
         "Below 0 % more failed than allowed. Normal: over 50 %. If it falls: see which codes calls end with, and hold back changes while little is left.",
         budget_left("errors", "availability"), "red .1 yellow .5 green", True, False, decimals=0, no_value="no calls", links=[("Serving", "serving")]),
    tile("Latency budget, 3 days", "percentunit",
         "What is left of the slow calls that the objective of latency allows in 3 days: of the last 3, not of the 30 that the objective is about. "
         "Normal: over 50 %. If it falls: the Serving dashboard shows the stage and the queue that take the time.",
         budget_left("slow", "latency"), "red .1 yellow .5 green", True, False, decimals=0, no_value="no calls", links=[("Serving", "serving")]),
    tile("99 % within", "s",
         "99 of 100 classification calls are answered within this time. Normal: what it was last week. If it rises: see Latency below and the queue on the "
         "Serving dashboard.",
         quantile("0.99", HANDLING, labels=CALLS), "green .5 yellow 1 red", no_value="no calls", links=[("Serving", "serving")]),
    tile("Queue full", "percentunit",
         "The fullest queue, as a share of what may wait; over 100 % calls are refused. Normal: under half. If not: less load, shorter texts, or more cores.",
         "max(tasuki_inference_queue_length{@} / tasuki_inference_queue_limit{@})", GOOD_WHEN_LOW, decimals=0, no_value="no version",
         links=[("Serving", "serving")]),
    tile("Jobs failed, 24 h", "none",
         "Training jobs that ended FAILED in the last 24 hours. Normal: 0. `tasuki job list` says which; each says why in its error. Reasons are on the "
         "Training dashboard.",
         'round(sum(increase(tasuki_jobs_finished_total{@,state="FAILED"}[24h])))', "green 1 yellow 5 red", graph=False, links=[("Training", "training")]),
    tile("Disk free", "percentunit",
         "Free share of the fullest volume. Normal: over 20 %. Uploads and checkpoints stop when it is full: delete datasets, jobs and versions that nobody "
         "needs, or enlarge the volume.",
         "min(tasuki_volume_free_bytes{@} / tasuki_volume_size_bytes{@})", "red .1 yellow .2 green", links=[("Store and host", "store-and-host")]),
    tile("Classifications", "reqps",
         "Classification calls per second, streams not counted. What is normal depends on who uses it; a sudden 0 means that clients do not get through.",
         f"sum(rate(grpc_server_handled_total{{@,{CALLS}}}[R]))", height=3),
    tile("In flight", "none",
         "Calls that are being handled now, watches and streams included. Normal: flat. If it only grows, clients do not read their answers.",
         "sum(grpc_server_in_flight_requests{@})", height=3),
    tile("Jobs running", "none",
         "Training jobs that run now: one at most per server.",
         'sum(tasuki_jobs{@,state="RUNNING"})', height=3, links=[("Training", "training")]),
    tile("Jobs queued", "none",
         "Training jobs that wait. Normal: it comes down again. If it only grows, jobs are submitted faster than one server trains them.",
         'sum(tasuki_jobs{@,state="QUEUED"})', "blue 10 yellow 50 red", height=3, links=[("Training", "training")]),
    tile("Versions in memory", "none",
         "Model versions that are loaded and answer.",
         "count(tasuki_model_info{@})", height=3, no_value="none", links=[("Serving", "serving")]),
    tile("Memory", "percentunit",
         "Share of their memory that the server and its trainer have. Normal: flat once versions are loaded, and more while a job runs. Over 90 % is an alert: "
         "at 100 % the system kills one of them.",
         MEMORY, "blue .8 yellow .9 red", decimals=0, height=3, links=[("Store and host", "store-and-host")]),
    tile("Running for", "s",
         "Time since the server started. A value that is small again and again means that it is restarted: look into its log and into the system's.",
         "min(time() - process_start_time_seconds{@})", graph=False, height=3),
    tile("Release", "none",
         "The release of the server that runs. Two at once are normal during an upgrade only.",
         "count by (version) (tasuki_build_info{@})", graph=False, height=3, legend="{{version}}"),

    "Calls",
    lines("Classifications by code", 8, "reqps",
          "Classification calls per second by the code they ended with. Normal: OK. ResourceExhausted is load that was refused, InvalidArgument and NotFound "
          "are mistakes of callers, Internal is a bug: its id is in the server's log.",
          ("{{grpc_code}}", f"sum by (grpc_code) (rate(grpc_server_handled_total{{@,{CALLS}}}[R])) > 0"),
          stack="normal", overrides=CODES, no_value="no calls"),
    lines("Failed and slow calls", 8, "percentunit",
          "Share of classification calls that failed through the server's fault, or were slower than the objective of latency, over 5 minutes. Normal: under "
          "the dashed lines, which are the objectives. If not: the codes beside it, and the stages on the Serving dashboard.",
          ("failed", "max(tasuki:slo_errors:ratio_rate5m{@})"),
          ("slow", "max(tasuki:slo_slow:ratio_rate5m{@})"),
          ("allowed to fail", "1 - max(tasuki:slo_availability:objective)"),
          ("allowed to be slow", "1 - max(tasuki:slo_latency:objective)"),
          overrides=[field("/^allowed.*/", **LIMIT), field("allowed to be slow", color={"mode": "fixed", "fixedColor": "orange"})]),
    lines("Latency", 8, "s",
          "Time in which 50, 95 and 99 of 100 classification calls are answered, as the server sees it: without the network. Normal: steady. p99 alone up: "
          "long texts or a loaded model; all up: the queue.",
          *quantiles(HANDLING, labels=CALLS),
          fill=0, no_value="no calls"),

    "Budgets: how fast they are spent. 1 spends them in 30 days, 14.4 in 2 days",
    lines("Burn rate of the error budget", 8, "none",
          "Share of failed calls divided by the share that the objective allows, over several windows. Normal: under 1. Alerts page at 14.4 (1 h and 5 m) and "
          "6 (6 h and 30 m), and make a ticket at 1 over 3 days.",
          *burn("errors", "availability"),
          fill=0, lines_at="transparent 1 yellow 6 orange 14.4 red", no_value="no calls"),
    lines("Burn rate of the latency budget", 8, "none",
          "Share of slow calls divided by the share that the objective allows, over several windows. Normal: under 1. Alerts page at 14.4 (1 h and 5 m) and 6 "
          "(6 h and 30 m), and make a ticket at 1 over 3 days.",
          *burn("slow", "latency"),
          fill=0, lines_at="transparent 1 yellow 6 orange 14.4 red", no_value="no calls"),
    table("Alerts that fire", 8, 8,
          "Alerts that fire now, by name and severity: page wakes somebody, ticket waits for the morning. Runbooks are in docs/operations.md. Empty while no "
          "alert fires.",
          [("alert", None, "alertname"),
           ("severity", None, "severity"),
           ("series", 'count by (alertname, severity) (ALERTS{alertname=~"Tasuki.+",alertstate="firing"})', {})],
          no_value="none"),

    "Jobs, versions, space",
    lines("Jobs by state", 8, "none",
          "Training jobs that have not ended, by state. Normal: one RUNNING at most, and QUEUED comes down. Ended jobs are on the Training dashboard.",
          ("{{state}}", 'sum by (state) (tasuki_jobs{@,state=~"QUEUED|RUNNING|PAUSED|CANCELLING"})'),
          decimals=0, overrides=STATES),
    table("Versions and their load", 8, 8,
          "Model versions that are loaded, with the texts that each answers per second. An alias of theirs decides which of them clients get; `tasuki model "
          "list` shows aliases.",
          [("version", None, "version"),
           ("precision", None, "precision"),
           ("device", None, "device"),
           ("texts per second", version('sum by (model) (rate(tasuki_inference_texts_total{@,result="ok"}[R]))'), {"unit": "none", "decimals": 1}),
           ("memory", version("sum by (model) (tasuki_model_memory_bytes{@})"), {"unit": "bytes"}),
           ("count", version("count by (model, precision, device) (tasuki_model_info{@})"), {})],
          hidden=["model", "Value #C"]),
    states("Health by service", 8,
           "What the health service answers: tasukid is the whole server, the others its services. Normal: all green. Red before a stop is the drain.",
           "{{service}}", "min by (service) (tasuki_health_serving{@})", values(v0=("not serving", "red"), v1=("serving", "green"))),
]

SERVING = [
    tile("Texts per second", "none",
         "Texts that were answered per second, over all calls and streams. What is normal depends on the clients.",
         'sum(rate(tasuki_inference_texts_total{@m,result="ok"}[R]))', decimals=1, no_value="no version"),
    tile("Tokens per second", "short",
         "Input tokens that were computed per second: the work itself. When it no longer rises with the load, the machine is full.",
         "sum(rate(tasuki_inference_tokens_total{@m}[R]))", no_value="no version"),
    tile("Half within", "s",
         "Half of the classification calls are answered within this time.",
         quantile("0.5", HANDLING, labels=CALLS), "green .1 yellow .5 red", no_value="no calls"),
    tile("99 % within", "s",
         "99 of 100 classification calls are answered within this time. If it rises: see the stages below.",
         quantile("0.99", HANDLING, labels=CALLS), "green .5 yellow 1 red", no_value="no calls"),
    tile("Queue, 95 % within", "s",
         "95 of 100 requests wait no longer than this for their forward pass. Normal: less than a pass takes. If it is most of the latency, the server has "
         "too much to do.",
         quantile("0.95", STAGE, selector="{@m}", labels='stage="queue"'), "green .1 yellow .5 red", no_value="no calls"),
    tile("Queue full", "percentunit",
         "The fullest queue, as a share of what may wait. Normal: under half. Over 80 % for long: refusals follow.",
         "max(tasuki_inference_queue_length{@m} / tasuki_inference_queue_limit{@m})", GOOD_WHEN_LOW, decimals=0, no_value="no version"),
    tile("Refused", "percentunit",
         "Share of texts that were refused, expired in the queue, or were answered too late. Normal: 0 %. If not: less load, longer deadlines, or more cores.",
         'sum(rate(tasuki_inference_texts_total{@m,result=~"rejected|expired|late"}[R])) / (sum(rate(tasuki_inference_texts_total{@m}[R])) > 0)',
         "green .01 yellow .05 red", no_value="no calls"),
    tile("Truncated", "percentunit",
         "Share of texts whose end was cut off because they have more tokens than the model takes. Normal: what your texts are like; answers for such texts "
         "miss their end.",
         "sum(rate(tasuki_inference_truncated_texts_total{@m}[R])) / (sum(rate(tasuki_inference_input_tokens_count{@m}[R])) > 0)", "green .1 yellow .5 red",
         no_value="no calls"),

    "Latency: where the time goes",
    lines("Mean time by stage", 8, "s",
          "Mean time of the stages of a classification, one on another: tokenize and queue once a request, encode, decode and postprocess once a forward "
          "pass. Normal: encode is the largest. If queue is: too much load for the machine.",
          ("{{stage}}", f"sum by (stage) (rate({STAGE}_sum{{@m}}[R])) / (sum by (stage) (rate({STAGE}_count{{@m}}[R])) > 0)"),
          stack="normal"),
    heat("Handling time of classifications", 8, "s",
         "How many calls took how long: a column is a moment, a row a time, a brighter cell more calls. Normal: one bright band. Two bands are two kinds of "
         "texts or two models; a cloud upwards is a queue.",
         HANDLING, labels=CALLS),
    lines("Latency by method", 8, "s",
          "99 of 100 calls of a method are answered within this time; methods that nobody calls are left out. Streams and watches last as long as their "
          "clients like.",
          ("{{grpc_method}}", quantile("0.99", HANDLING, "grpc_method") + " >= 0"),
          fill=0, log=True),

    "Queue and admission",
    lines("Queue", 8, "short",
          "Tokens that wait for a forward pass, and how many may wait (dashed). Normal: near 0, with peaks. At the limit calls are refused with "
          "RESOURCE_EXHAUSTED; streams wait.",
          ("waiting, {{version}}", version("sum by (model) (tasuki_inference_queue_length{@m})")),
          ("limit", "max(tasuki_inference_queue_limit{@m})"),
          overrides=[field("limit", **LIMIT)]),
    lines("Wait in the queue", 8, "s",
          "Time in which 50, 95 and 99 of 100 requests got out of the queue. Normal: milliseconds. It is what load adds to the latency.",
          *quantiles(STAGE, "{@m}", 'stage="queue"'),
          fill=0),
    lines("Refusals by reason", 8, "reqps",
          "Classifications that were refused or dropped without being computed, per second. Normal: none. queue_full and deadline: too much load; draining: "
          "the server stops; cancelled: the client left.",
          ("{{reason}}, {{priority}}", "sum by (reason, priority) (rate(tasuki_admission_rejections_total{@}[R]))")),

    "Forward passes",
    heat("Texts per forward pass", 8, "none",
         "How many texts went through the model together. Normal: 1 with little load, more the more waits. Always 1 under load: the deadlines or the token "
         "budget are too small.",
         "tasuki_inference_batch_size", "{@m}"),
    heat("Tokens per text", 8, "none",
         "How long texts are as they go into the model. Normal: steady. A change means that clients send other texts than before, and that the model may know "
         "less about them.",
         "tasuki_inference_input_tokens", "{@m}"),
    lines("Tokens", 8, "short",
          "Input tokens per second, and how many of them were padding: none on a CPU, where nothing is padded.",
          ("computed", "sum(rate(tasuki_inference_tokens_total{@m}[R]))"),
          ("padding", "sum(rate(tasuki_inference_padding_tokens_total{@m}[R]))")),
    lines("Padding", 8, "percentunit",
          "Share of the tokens on the device that are padding. Normal: 0 % on a CPU, under 20 % on a GPU. More: texts of very different lengths come "
          "together.",
          ("padding", "sum(rate(tasuki_inference_padding_tokens_total{@m}[R])) / "
                      "((sum(rate(tasuki_inference_padding_tokens_total{@m}[R])) + sum(rate(tasuki_inference_tokens_total{@m}[R]))) > 0)"),
          maximum=1),
    lines("Texts by result", 8, "none",
          "Texts per second by how they ended. Normal: ok. late: computed after their deadline; rejected, expired: too much load; error: see the server's "
          "log.",
          ("{{result}}", "sum by (result) (rate(tasuki_inference_texts_total{@m}[R]))"),
          stack="normal", overrides=fixed(ok="green", late="yellow", rejected="orange", expired="dark-orange", cancelled="light-blue", error="red")),
    lines("Truncated and late", 8, "none",
          "Texts per second whose end was cut off, and classifications per second that were computed though their deadline had passed. Normal: the first "
          "depends on the texts; the second is 0.",
          ("truncated texts", "sum(rate(tasuki_inference_truncated_texts_total{@m}[R]))"),
          ("computed too late", "sum(rate(tasuki_inference_expired_executions_total{@}[R]))")),

    "Answers: is the world still what the model learned?",
    lines("Answers by label", 8, "percentunit",
          "Share of each label among the answers of its task. Normal: steady over weeks. If it moves, texts have changed, or the version: look at the marks "
          "of loads and aliases.",
          ("{{task}}: {{label}}", "sum by (task, label) (rate(tasuki_inference_predictions_total{@m}[R])) / on (task) group_left () "
                                  "(sum by (task) (rate(tasuki_inference_predictions_total{@m}[R])) > 0)"),
          fill=0, maximum=1),
    lines("Confidence", 8, "percentunit",
          "Probability that the model gives its answers: half of them have less than the median, one in ten less than p10. Normal: steady. A fall means texts "
          "that the model knows little about: label some of them and train again.",
          ("{{task}}, median", quantile("0.5", "tasuki_inference_confidence_ratio", "task", "{@m}") + " >= 0"),
          ("{{task}}, p10", quantile("0.1", "tasuki_inference_confidence_ratio", "task", "{@m}") + " >= 0"),
          fill=0, maximum=1),
    lines("Shadows", 8, "percentunit",
          "Where an alias has a shadow: the share of texts for which both versions chose the same label, and of texts that the shadow skipped for lack of "
          "time. Normal: near 100 % the same, 0 % skipped. Decide by the answers that differ. 0 % and 0 % without a shadow.",
          ("same, {{version}}", version('sum by (model) (rate(tasuki_shadow_predictions_total{@m,result="same"}[R])) / '
                                        'clamp_min(sum by (model) (rate(tasuki_shadow_predictions_total{@m,result=~"same|different"}[R])), 1e-9)')),
          ("skipped, {{version}}", version('sum by (model) (rate(tasuki_shadow_predictions_total{@m,result="skipped"}[R])) / '
                                           "clamp_min(sum by (model) (rate(tasuki_shadow_predictions_total{@m}[R])), 1e-9)")),
          fill=0, maximum=1),

    "Versions",
    lines("Memory by version", 8, "bytes",
          "Memory of the weights of each loaded version. Normal: what you loaded. With --model_memory_mb, the least used versions are unloaded to stay under "
          "it.",
          ("{{version}}", version("sum by (model) (tasuki_model_memory_bytes{@m})")),
          stack="normal", calcs=("lastNotNull",)),
    bars("Loads, evictions, alias changes", 8,
         "What happened to versions in the range that is shown. Loads with an error are to be looked into: `tasuki model versions` says why. Many evictions: "
         "too little memory for the versions that are asked for.",
         "{{what}}",
         'label_replace(sum by (result) (round(increase(tasuki_model_loads_total{@}[$__range]))), "what", "loads: $1", "result", "(.*)") or '
         'label_replace(sum(round(increase(tasuki_model_evictions_total{@}[$__range]))), "what", "evictions", "", "") or '
         'label_replace(sum(round(increase(tasuki_alias_changes_total{@}[$__range]))), "what", "alias changes", "", "")',
         overrides=[field("loads: error", thresholds=steps("green 1 red"))]),
    lines("Time to load a version", 8, "s",
          "Time in which half and 95 of 100 loads were done, over the last hour. Normal: seconds for a base model. If it grows: the disk is slow, or the "
          "machine is busy.",
          ("p50", "histogram_quantile(0.5, sum by (le) (increase(tasuki_model_load_seconds_bucket{@}[1h])))"),
          ("p95", "histogram_quantile(0.95, sum by (le) (increase(tasuki_model_load_seconds_bucket{@}[1h])))"),
          fill=0, no_value="no loads"),

    "Calls of every kind",
    lines("Calls by method", 8, "reqps",
          "Calls per second by method; methods that nobody calls are left out.",
          ("{{grpc_method}}", "sum by (grpc_method) (rate(grpc_server_handled_total{@}[R])) > 0"),
          stack="normal"),
    lines("Errors by method and code", 8, "reqps",
          "Calls per second that did not end OK, by method and code; empty while there are none. Canceled is a client who left, InvalidArgument and NotFound "
          "are mistakes of callers; Internal, Unavailable and DataLoss are the server's.",
          ("{{grpc_method}}: {{grpc_code}}", 'sum by (grpc_method, grpc_code) (rate(grpc_server_handled_total{@,grpc_code!="OK"}[R])) > 0'),
          no_value="no errors"),
    lines("In flight by method", 8, "none",
          "Calls that are being handled, by method. Normal: flat. Watches and streams stay for as long as their clients do.",
          ("{{grpc_method}}", "sum by (grpc_method) (grpc_server_in_flight_requests{@}) > 0"),
          stack="normal"),
]

TRAINING = [
    tile("Running", "none",
         "Training jobs that run now: one at most per server.",
         'sum(tasuki_jobs{@,state="RUNNING"})', background=False),
    tile("Queued", "none",
         "Training jobs that wait for their turn. Normal: it comes down again.",
         'sum(tasuki_jobs{@,state="QUEUED"})', "blue 10 yellow 50 red"),
    tile("Oldest queued", "s",
         "How long the oldest queued job has waited. Normal: no more than the jobs before it take, since they run one at a time. Jobs that wait while none "
         "runs are an alert after 15 minutes: look into the server's log.",
         "max(time() - tasuki_job_oldest_queued_timestamp_seconds{@})", no_value="none queued"),
    tile("Failed, 24 h", "none",
         "Jobs that ended FAILED in the last 24 hours. Normal: 0. Each says why: `tasuki job get`; RetryTrainingJob lets it go on from its newest checkpoint "
         "once the cause is gone.",
         'round(sum(increase(tasuki_jobs_finished_total{@,state="FAILED"}[24h])))', "green 1 yellow 5 red", graph=False),
    tile("Succeeded, 24 h", "none",
         "Jobs that ended SUCCEEDED in the last 24 hours.",
         'round(sum(increase(tasuki_jobs_finished_total{@,state="SUCCEEDED"}[24h])))', graph=False),
    tile("Trainer deaths, 24 h", "none",
         "Trainer processes that crashed, ran out of memory, or were killed, in the last 24 hours. Normal: 0. The job goes on from its newest checkpoint by "
         "itself; three deaths without a new one end it.",
         'round(sum(increase(tasuki_child_exits_total{@,class=~"crashed|oom|killed"}[24h])))', "green 1 yellow 3 red", graph=False),
    tile("Last step", "s",
         "Time since a running job last reported a new step. Normal: seconds; minutes while it evaluates or writes a checkpoint. 15 minutes of training "
         "without one are an alert: the trainer hangs, or the machine is too busy.",
         "max(time() - tasuki_train_last_step_timestamp_seconds{@t})", "green 300 yellow 900 red", no_value="no job"),
    tile("Last checkpoint", "s",
         "Time since a running job last completed a checkpoint: what a death now would cost. Normal: under the interval of the job's recipe.",
         "max(time() - tasuki_checkpoint_last_success_timestamp_seconds{@t})", "green 3600 yellow 10800 red", no_value="none yet"),
    table("Running jobs", 24, 4,
          "What runs now. Time left is judged by the progress of the last 5 minutes; evaluations and checkpoints come on top. Empty between jobs.",
          [("job", None, "name"),
           ("phase", None, "phase"),
           ("done", training("max by (phase, training_job) ((tasuki_train_phase{@t} == 1) * ignoring (phase) group_left () tasuki_train_progress_ratio{@t})"),
            {"unit": "percentunit", "min": 0, "max": 1, "thresholds": steps("blue"),
             "custom__cellOptions": {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}}),
           ("time left", training("max by (training_job) ((1 - tasuki_train_progress_ratio{@t}) / (deriv(tasuki_train_progress_ratio{@t}[5m]) > 0))"),
            {"unit": "s"}),
           ("loss", training("max by (training_job) (tasuki_train_loss{@t})"), {"decimals": 4}),
           ("macro F1, mean of tasks", training('avg by (training_job) (tasuki_eval_score{@t,metric="macro_f1"})'), {"decimals": 4}),
           ("learning rate", training("max by (training_job) (tasuki_train_learning_rate{@t})"), {"unit": "sci", "decimals": 2}),
           ("since last step", training("max by (training_job) (time() - tasuki_train_last_step_timestamp_seconds{@t})"),
            {"unit": "s", "thresholds": steps("text 300 yellow 900 red"), "custom__cellOptions": {"type": "color-text"}}),
           ("since last checkpoint", training("max by (training_job) (time() - tasuki_checkpoint_last_success_timestamp_seconds{@t})"), {"unit": "s"})],
          hidden=[TRAINING_JOB], no_value="–"),

    "Curves",
    lines("Training loss", 8, "none",
          "Loss of the last reported step, per target token. Normal: falls fast, then slowly. Rising for long: learning rate too high. NaN ends the job.",
          ("{{name}}", training("tasuki_train_loss{@t}")),
          fill=0, calcs=("min", "lastNotNull"), no_value="no job"),
    lines("Validation loss by task", 8, "none",
          "Loss on the valid sets after each evaluation. Normal: falls, then flat. Rising while the training loss falls: the job learns its training texts by "
          "heart, early stopping ends that.",
          ("{{name}}: {{task}}", training('tasuki_eval_score{@t,metric="loss"}')),
          fill=0, calcs=("min", "lastNotNull"), no_value="no evaluation yet"),
    lines("Macro F1 by task", 8, "percentunit",
          "Mean F1 over the labels of a task, on its valid set. Normal: rises, then flat. One task falling while others rise: give it more weight.",
          ("{{name}}: {{task}}", training('tasuki_eval_score{@t,metric="macro_f1"}')),
          fill=0, maximum=1, calcs=("max", "lastNotNull"), no_value="no evaluation yet"),
    lines("Accuracy by task", 8, "percentunit",
          "Share of right answers on a task's valid set. Far over macro F1: the model favours the frequent labels.",
          ("{{name}}: {{task}}", training('tasuki_eval_score{@t,metric="accuracy"}')),
          fill=0, maximum=1, calcs=("max", "lastNotNull"), no_value="no evaluation yet"),
    lines("Learning rate", 8, "sci",
          "Learning rate of the last step, as the job's schedule has it: warm-up, then down.",
          ("{{name}}", training("tasuki_train_learning_rate{@t}")),
          fill=0, calcs=("max", "lastNotNull"), no_value="no job"),
    lines("Gradient norm", 8, "none",
          "Norm of the gradient before clipping. Normal: falls and then stays within a factor of ten. Peaks are clipped; growth for long comes before a loss "
          "that is not finite: lower the learning rate.",
          ("{{name}}", training("tasuki_train_gradient_norm{@t}")),
          fill=0, calcs=("max", "lastNotNull"), no_value="no job"),

    "Speed",
    lines("Progress", 6, "percentunit",
          "Share of a job's steps that are done. A straight line is normal; flat parts are evaluations and checkpoints.",
          ("{{name}}", training("tasuki_train_progress_ratio{@t}")),
          fill=0, maximum=1, calcs=("lastNotNull",), no_value="no job"),
    lines("Examples per second", 6, "none",
          "Examples that were trained on per second. Normal: steady within a job. Serving goes first, so it falls while many texts are classified.",
          ("examples", "sum(rate(tasuki_train_examples_total{@}[R]))")),
    lines("Tokens per second", 6, "short",
          "Input tokens that were trained on per second: compare jobs by it, since it does not depend on the length of texts.",
          ("tokens", "sum(rate(tasuki_train_tokens_total{@}[R]))")),
    lines("Time of a step", 6, "s",
          "Time of an optimizer step: half and 95 of 100 take no longer. Normal: steady within a job.",
          ("p50", quantile("0.5", "tasuki_train_step_seconds")),
          ("p95", quantile("0.95", "tasuki_train_step_seconds")),
          fill=0, no_value="no job"),

    "Checkpoints",
    lines("Time to write a checkpoint", 8, "s",
          "Time in which half and 95 of 100 checkpoints were written and synced, over the last hour. Training stands still meanwhile. If it grows: the disk "
          "is slow or nearly full.",
          ("p50", "histogram_quantile(0.5, sum by (le) (increase(tasuki_checkpoint_write_seconds_bucket{@}[1h])))"),
          ("p95", "histogram_quantile(0.95, sum by (le) (increase(tasuki_checkpoint_write_seconds_bucket{@}[1h])))"),
          fill=0, no_value="no checkpoint"),
    lines("Age of the newest checkpoint", 8, "s",
          "What a death of the trainer would cost, in time. Normal: a saw-tooth whose height is the interval of the job's recipe.",
          ("{{name}}", training("time() - tasuki_checkpoint_last_success_timestamp_seconds{@t}")),
          calcs=("max", "lastNotNull"), no_value="none yet"),
    bars("Checkpoints", 8,
         "Checkpoints written in the range that is shown, by result, and damaged ones that were passed over. Normal: ok only. Errors: the disk is full or "
         "broken, the server's log says which. Passed over: a file changed on disk, look for the cause.",
         "{{what}}",
         'label_replace(sum by (result) (round(increase(tasuki_checkpoints_total{@}[$__range]))), "what", "written: $1", "result", "(.*)") or '
         'label_replace(sum(round(increase(tasuki_checkpoint_fallbacks_total{@}[$__range]))), "what", "passed over", "", "")',
         overrides=[field("written: error", thresholds=steps("green 1 red")), field("passed over", thresholds=steps("green 1 red"))]),

    "Queue and attempts",
    lines("Jobs by state", 8, "none",
          "Training jobs that have not ended, by state. Normal: one RUNNING at most per server.",
          ("{{state}}", 'sum by (state) (tasuki_jobs{@,state=~"QUEUED|RUNNING|PAUSED|CANCELLING"})'),
          decimals=0, overrides=STATES),
    lines("Wait in the queue", 8, "s",
          "Time in which half and 95 of 100 jobs got their first trainer, over the last 6 hours, and how long the oldest queued job waits now. Normal: what "
          "jobs before it take.",
          ("p50", "histogram_quantile(0.5, sum by (le) (increase(tasuki_job_queue_wait_seconds_bucket{@}[6h])))"),
          ("p95", "histogram_quantile(0.95, sum by (le) (increase(tasuki_job_queue_wait_seconds_bucket{@}[6h])))"),
          ("oldest now", "max(time() - tasuki_job_oldest_queued_timestamp_seconds{@})"),
          fill=0),
    lines("Duration of jobs", 8, "s",
          "Time in which half of the jobs ended, from the start of their first trainer, over the last 6 hours, by state. Normal: what your jobs are; failed "
          "ones fail early.",
          ("{{state}}", "histogram_quantile(0.5, sum by (le, state) (increase(tasuki_job_duration_seconds_bucket{@}[6h]))) >= 0"),
          fill=0, no_value="no job ended"),
    bars("Trainers started, by cause", 8,
         "Attempts in the range that is shown. Normal: first, and resumed after a pause. server_restart: jobs that went on after the server came back; crash "
         "and oom: a trainer died before.",
         "{{cause}}", "sum by (cause) (round(increase(tasuki_job_attempts_total{@}[$__range])))",
         overrides=[field("crash", thresholds=steps("green 1 red")), field("oom", thresholds=steps("green 1 red"))]),
    bars("Trainers ended, by class", 8,
         "How trainers ended in the range that is shown. Normal: finished, and stopped for a pause, a cancel or a restart. failed: the job's own fault, see "
         "its error; crashed, oom, killed: see the job's log and the system's.",
         "{{class}}", "sum by (class) (round(increase(tasuki_child_exits_total{@}[$__range])))",
         overrides=[field(name, thresholds=steps("green 1 red")) for name in ("crashed", "oom", "killed")]),
    bars("Jobs ended, by state and reason", 8,
         'Jobs that ended in the range that is shown, by state, and by reason where they failed; reasons are explained in docs/design.md, "When things fail". '
         'Normal: SUCCEEDED.',
         "{{what}}",
         'label_replace(sum by (state) (round(increase(tasuki_jobs_finished_total{@,state!="FAILED"}[$__range]))), "what", "$1", "state", "(.*)") or '
         'label_replace(sum by (reason) (round(increase(tasuki_jobs_finished_total{@,state="FAILED"}[$__range]))) > 0, "what", "FAILED: $1", "reason", "(.*)")',
         overrides=[field("/^FAILED.*/", thresholds=steps("red"))]),
]

HOST = [
    tile("Scrapes", "none",
         "Whether Prometheus reaches the server's metrics. Down: the process is gone, or its port is.",
         "min(up{@})", "red 1 green", True, False, mappings=values(v0=("DOWN", "red"), v1=("Up", "green")), no_value="no server"),
    tile("Store errors", "none",
         "Store operations that failed in the last hour because the store did not work. Normal: 0. The server's log says why; a full or broken disk is the "
         "usual cause.",
         "round(sum(increase(tasuki_store_errors_total{@}[1h])))", "green 1 red", graph=False),
    tile("Store, 99 % within", "s",
         "99 of 100 operations of the store are done within this time. Normal: under 50 ms. Over a second is an alert: the disk does not keep up with syncs.",
         quantile("0.99", "tasuki_store_operation_seconds"), "green .1 yellow 1 red", no_value="idle"),
    tile("Disk free", "percentunit",
         "Free share of the fullest volume; how much that is stands below. Normal: over 20 %. Under 10 % for half an hour is an alert.",
         "min(tasuki_volume_free_bytes{@} / tasuki_volume_size_bytes{@})", "red .1 yellow .2 green"),
    tile("Disk full in", "s",
         "When the volume is full if it fills on as in the last 6 hours; a year at most. Normal: weeks. 4 hours are an alert.",
         "min(clamp_max(tasuki_volume_free_bytes{@} / clamp_min(-deriv(tasuki_volume_free_bytes{@}[6h]), 1e-3), 31536000))", "red 14400 yellow 259200 green",
         graph=False),
    tile("Memory used", "percentunit",
         "Share of their memory that the server and its trainer have. Over 90 % for ten minutes is an alert: at 100 % the system kills one of them. Fewer "
         "models in memory, smaller batches, or more memory.",
         MEMORY, "green .8 yellow .9 red", decimals=0),
    tile("Files open", "percentunit",
         "Share of the file descriptors that the process may have. Normal: a few percent. If it grows: connections that nobody closes; at 100 % no client "
         "gets through.",
         "max(process_open_fds{@} / process_max_fds{@})", GOOD_WHEN_LOW, decimals=1),
    tile("Certificate", "s",
         "Time until the server's certificate expires. Normal: over 14 days. Put a new one in the place of the file, the server takes it by itself. Needs "
         "TLS.",
         "min(tasuki_tls_certificate_expiry_timestamp_seconds{@} - time())", "red 604800 yellow 1209600 green", graph=False, no_value="no TLS"),

    "Store",
    lines("Operations", 6, "ops",
          "Operations of the store per second. Reads come with calls, writes with jobs and uploads.",
          ("{{op}}", "sum by (op) (rate(tasuki_store_operation_seconds_count{@}[R]))"),
          stack="normal"),
    lines("Time of operations, p99", 6, "s",
          "99 of 100 operations of a kind are done within this time. Normal: milliseconds; writes wait for the disk to sync. If writes alone are slow: the "
          "disk; all: the machine.",
          ("{{op}}", quantile("0.99", "tasuki_store_operation_seconds", "op") + " >= 0"),
          fill=0, log=True),
    lines("Errors and retries", 6, "ops",
          "Operations per second that failed because the store did not work, or were tried again because it was busy. Normal: none; a few retries while much "
          "is written.",
          ("errors", "sum(rate(tasuki_store_errors_total{@}[R]))"),
          ("retries", "sum(rate(tasuki_store_retries_total{@}[R]))"),
          overrides=fixed(errors="red")),
    lines("Connections", 6, "none",
          "Connections to the store, used and idle. Normal: some idle. None idle for long: operations wait for one another.",
          ("{{state}}", "sum by (state) (tasuki_store_connections{@})"),
          stack="normal", decimals=0),

    "Disk",
    lines("Free space and forecast", 8, "bytes",
          "Free space of each volume, and what will be free in 24 hours if it fills on as in the last 6. Normal: both flat. Forecast under 0: space is needed "
          "today.",
          ("{{volume}}, free", "min by (volume) (tasuki_volume_free_bytes{@})"),
          ("{{volume}}, in 24 h", "min by (volume) (predict_linear(tasuki_volume_free_bytes{@}[6h], 86400))"),
          ("{{volume}}, size", "max by (volume) (tasuki_volume_size_bytes{@})"),
          fill=0, minimum=None, calcs=("min", "lastNotNull"),
          overrides=[field("/.*in 24 h$/", custom__lineStyle={"fill": "dash", "dash": [6, 6]}), field("/.*size$/", **LIMIT)]),
    lines("What takes the space", 8, "bytes",
          "Sizes on disk by kind, looked at once a minute. jobs are mostly checkpoints; they go when a job is deleted.",
          ("{{kind}}", "sum by (kind) (tasuki_artifact_bytes{@})"),
          stack="normal", calcs=("lastNotNull",)),
    lines("Log lines by level", 8, "none",
          "Lines that the server logged per second. Normal: few info lines, no error. Read the log where errors or warnings rise.",
          ("{{level}}", "sum by (level) (rate(tasuki_log_messages_total{@}[R]))"),
          overrides=LEVELS),

    "Process",
    lines("CPU", 6, "none",
          "Processor cores that the server uses, and the threads that it may compute with (dashed). Normal: at the dashed line under full load.",
          ("cores used", "sum(rate(process_cpu_seconds_total{@}[R]))"),
          ("compute threads", 'max(tasuki_compute_threads{@,use="serving"})'),
          overrides=[field("compute threads", **LIMIT)]),
    lines("Memory", 6, "bytes",
          "Resident memory and heap of the server, the weights of its versions, the resident memory of its trainer (0 while no job runs), and the limit of "
          "both together (dashed). Normal: flat once versions are loaded. Steady growth of the server is a leak: keep the process, and report it.",
          ("resident", "sum(process_resident_memory_bytes{@})"),
          ("heap", "sum(process_heap_bytes{@})"),
          ("weights", "sum(tasuki_model_memory_bytes{@})"),
          ("trainer", "sum(tasuki_trainer_resident_memory_bytes{@})"),
          ("limit", "sum(tasuki_memory_limit_bytes{@})"),
          overrides=[field("limit", **LIMIT)]),
    lines("Open files", 6, "none",
          "Open file descriptors: connections, files, pipes. Normal: rises with clients and falls with them.",
          ("open", "sum(process_open_fds{@})")),
    lines("Threads", 6, "none",
          "Threads of the server process. Normal: flat at some dozens; gRPC adds some with calls.",
          ("threads", "sum(process_threads{@})")),

    "Device",
    lines("Device memory", 8, "bytes",
          "Memory of each GPU that is used, by all processes, and how much it has (dashed). Normal: under 90 %. Full: loads and jobs end with OUT_OF_MEMORY. "
          "Needs a GPU.",
          ("{{device}}, used", "max by (device) (tasuki_device_memory_used_bytes{@})"),
          ("{{device}}, size", "max by (device) (tasuki_device_memory_total_bytes{@})"),
          overrides=[field("/.*size$/", **LIMIT)]),
    lines("Device use", 8, "percentunit",
          "Share of the time in which a GPU computed anything. High with few tokens per second: small passes. Low with a long queue: something else is the "
          "bottleneck. Needs a GPU.",
          ("{{device}}", "max by (device) (tasuki_device_utilization_ratio{@})"),
          maximum=1),
    lines("Device power", 8, "watt",
          "Power that each GPU draws. What it costs: watts times hours. Needs a GPU.",
          ("{{device}}", "max by (device) (rate(tasuki_device_energy_joules_total{@}[R]))")),

    "Access and scrapes",
    lines("Refusals by token", 8, "reqps",
          "Calls per second that were refused because of their token. Normal: none. token_invalid in numbers: an old token somewhere, or somebody who "
          "guesses.",
          ("{{reason}}", "sum by (reason) (rate(tasuki_access_refusals_total{@}[R]))")),
    bars("Files of tokens and certificates read again", 8,
         "Changed files in the range that is shown, by whether they could be taken. An error leaves what was read before in use: the server's log says what "
         "is wrong.",
         "{{file}}: {{result}}", "sum by (file, result) (round(increase(tasuki_access_reloads_total{@}[$__range])))",
         overrides=[field("/.*error$/", thresholds=steps("green 1 red"))]),
    lines("Cost of metrics", 8, "s",
          "Time that a scrape takes. Normal: milliseconds. Over a second, or growing from week to week: report it.",
          ("scrape", "max(scrape_duration_seconds{@})")),
]

# uid, title, what it is, range, refresh, variables beside scrape job and instance, marks, panels
DASHBOARDS = [
    ("overview", "Overview", "Is it well? The first row answers; the others say since when and where to look next.", "now-6h", "30s", "", [ALERTS, RESTARTS,
    LOADS, ALIASES, FINISHED], OVERVIEW),
    ("serving", "Serving", "Classification: latency, queue, forward passes, answers, versions.", "now-1h", "10s", "m", [ALERTS, RESTARTS, LOADS, ALIASES],
    SERVING),
    ("training", "Training", "Training jobs: what runs, its curves live, its speed and checkpoints; the queue and how jobs ended.", "now-3h", "10s", "t",
     [ALERTS, RESTARTS, ATTEMPTS, FINISHED, CHECKPOINTS], TRAINING),
    ("store-and-host", "Store and host", "The store, the disk, the process, the GPU: use, saturation, errors.", "now-6h", "30s", "", [ALERTS, RESTARTS], HOST),
]


def variable(name, label, expression, all_value=".+"):
    return {"name": name, "label": label, "type": "query", "datasource": DATASOURCE, "query": {"query": expression, "refId": name}, "definition": expression,
         "refresh": 2, "sort": 1,
            "multi": True, "includeAll": True, "allValue": all_value, "regex": "", "hide": 0, "skipUrlSync": False, "options": [],
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]}}


def dashboard(uid, title, text, begin, refresh, variables, marks, table_of_panels):
    found = [{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "regex": "", "multi": False, "includeAll": False,
         "hide": 0, "refresh": 1,
              "skipUrlSync": False, "options": [], "current": {}},
             variable("job", "Scrape job", "label_values(tasuki_build_info, job)", None),  # all: those of Tasuki, and nobody else's
             variable("instance", "Instance", 'label_values(tasuki_build_info{job=~"$job"}, instance)')]
    if variables == "m":
        found.append(variable("model", "Model", query("label_values(tasuki_model_info{@}, model)")))
    if variables == "t":
        found.append(variable("training_job", "Training job", query("label_values(tasuki_train_last_step_timestamp_seconds{@}, training_job)")))
    panels, x, y, height = [], 0, 0, 0
    for entry in table_of_panels:
        if isinstance(entry, str):
            y, x = y + height, 0
            placed, height = {"type": "row", "title": entry, "collapsed": False, "panels": [], "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}}, 1
            y, height = y + 1, 0
        else:
            width = entry["gridPos"]["w"]
            if x + width > 24:
                y, x, height = y + height, 0, 0
            placed = {**entry, "gridPos": {"x": x, "y": y, **entry["gridPos"]}}
            x, height = x + width, max(height, entry["gridPos"]["h"])
        panels.append({"id": len(panels) + 1, **placed})
    built_in = {"builtIn": 1, "name": "Annotations & Alerts", "datasource": {"type": "grafana", "uid": "-- Grafana --"}, "enable": True, "hide": True,
                "iconColor": "rgba(0, 211, 255, 1)", "type": "dashboard"}
    return {"uid": f"tasuki-{uid}", "title": f"Tasuki / {title}", "description": text, "tags": ["tasuki"], "editable": False, "graphTooltip": 1,
         "schemaVersion": 39, "version": 1,
            "timezone": "browser", "weekStart": "", "time": {"from": begin, "to": "now"}, "refresh": refresh, "fiscalYearStartMonth": 0, "liveNow": False,
            "timepicker": {},
            "links": [{"type": "dashboards", "title": "Tasuki", "tags": ["tasuki"], "asDropdown": False, "includeVars": True, "keepTime": True,
            "targetBlank": False, "icon": "dashboard",
                       "tooltip": "", "url": ""}],
            "templating": {"list": found}, "annotations": {"list": [built_in, *marks]}, "panels": panels}


def main():
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    differ = [path.name for path in DIRECTORY.glob("*.json") if path.stem not in [entry[0] for entry in DASHBOARDS]]
    for entry in DASHBOARDS:
        path, text = DIRECTORY / f"{entry[0]}.json", json.dumps(dashboard(*entry), indent=1, ensure_ascii=False) + "\n"
        if sys.argv[1:] == ["--check"]:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                differ.append(path.name)
        else:
            path.write_text(text, encoding="utf-8")
    if differ:
        sys.exit(f"{', '.join(differ)} in {DIRECTORY}: not what deploy/grafana/generate.py makes; run it")


if __name__ == "__main__":
    main()
