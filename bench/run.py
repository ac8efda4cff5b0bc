"""Runs ours and the peers in turns and writes what they print; called by script/bench, whose --help says more."""

import argparse
import datetime
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from tasukid import Tasukid

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true")
parser.add_argument("--data", type=Path, default=Path("../shared/data"))
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--fast", action="store_true")
parser.add_argument("--only", choices=["classify", "serve", "train"])
parser.add_argument("--out", type=Path)
options = parser.parse_args()
rounds = 1 if options.quick else options.rounds
work = Path("build/bench/base")
model = work / "model"
if not (model / "model.safetensors").is_file():
    subprocess.run([sys.executable, "bench/model.py", options.data, work], check=True)
mixed = work / "mixed.txt"
amcd, marc = ((work / f"{name}.txt").read_text(encoding="utf-8").splitlines() for name in ("amcd", "marc"))
mixed.write_text("".join(text + "\n" for pair in zip(amcd[:300], marc[:300]) for text in pair), encoding="utf-8")

seconds = "3" if options.quick else "4" if options.fast else "8"
TASKS = ["amcd"] if options.quick else ["amcd", "marc"]
# A peer competes in its own precision.
PEERS = {
    "fp32": ["transformers-generate-fp32", "transformers-step-fp32", "ct2-translate-float32", "ct2-score-float32", "onnx-step-fp32"],
    "bf16": ["transformers-generate-bf16", "transformers-step-bf16"],
    "int8": ["ct2-translate-int8", "ct2-score-int8", "onnx-step-int8"],
}
if options.quick:
    PEERS = {precision: ways[-1:] if precision == "bf16" else ways[:1] for precision, ways in PEERS.items()}
if options.fast:  # generation and scoring each label do more work than these for the same answer: never the best of a precision
    PEERS = {"fp32": ["transformers-step-fp32", "ct2-translate-float32", "onnx-step-fp32"], "bf16": ["transformers-step-bf16"], "int8": ["ct2-translate-int8", "onnx-step-int8"]}
# Callers and texts a call, through a server.
LOADS = {"amcd": [(callers, texts) for texts in (1, 32) for callers in (1, 16, 64)], "marc": [(16, 32)]}
if options.quick:
    LOADS = {"amcd": [(16, 32)]}
if options.fast:
    LOADS = {"amcd": [(16, 32), (16, 1)]}
SERVED = ["int8"] if options.quick else list(PEERS)
SERVER = Path("build/bench/served")
# Ours in a precision, and the loops of transformers that it meets.
TRAINING = {"fp32": ["longest-fp32"]} if options.quick else \
    {"fp32": ["longest-fp32", "grouped-fp32", "limit-fp32"], "bf16": ["longest-bf16", "grouped-bf16"]}
GLIBC = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776:glibc.malloc.hugetlb=1"  # as tasukid sets it for trainers


def run(command, **environment):
    command = [str(part) for part in command]
    print("·", " ".join(command), file=sys.stderr)
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env={**os.environ, **environment}).stdout
    return json.loads(output.splitlines()[-1])


def classify(task, way):
    arguments = [model, task, work / f"{task}.txt", way, "--seconds", seconds]
    if way in PEERS:
        return run(["build/release/bin/bench-classify", *arguments])
    return run([sys.executable, "bench/peers/classify.py", *arguments])


def train(way):
    arguments = [model, mixed]
    if way in TRAINING:
        precision = [] if way == "fp32" else [way]
        return run(["build/release/bin/bench-train", *arguments, "8", seconds, *precision], GLIBC_TUNABLES=GLIBC)
    return run([sys.executable, "bench/peers/train.py", *arguments, way, "8", seconds])


def serve(precision):
    """Bulk in one process and through a server in turns; both are of the same texts."""
    new = not SERVER.exists()
    with Tasukid(SERVER, f"--serving_precision={precision}") as server:
        if new:
            server.tasuki("model", "import", model, "--model", "base")
            server.tasuki("model", "load", "base@1")
        server.await_loaded("base@1")
        for task, loads in LOADS.items():
            yield f"bulk {task} {precision}", classify(task, precision)
            for callers, texts in loads:
                arguments = [server.address, "models/base", task, work / f"{task}.txt", callers, texts, "--seconds", seconds]
                yield f"serve {task} {precision} {callers}x{texts}", run(["build/release/bin/bench-serve", *arguments])


results = {}
shutil.rmtree(SERVER, ignore_errors=True)
for turn in range(rounds):
    for task in TASKS if options.only in (None, "classify") else []:
        for precision, ways in PEERS.items():
            for way in [precision, *ways]:
                results.setdefault(f"classify {task} {way}", []).append(classify(task, way))
    for precision in SERVED if options.only in (None, "serve") else []:
        for what, result in serve(precision):
            results.setdefault(what, []).append(result)
    for precision, ways in TRAINING.items() if options.only in (None, "train") else []:
        for way in [precision, *ways]:
            # A step padded to the limit takes a minute: one turn tells enough.
            if way.startswith("limit") and options.fast and turn > 0:
                continue
            try:
                results.setdefault(f"train {way}", []).append(train(way))
            except subprocess.CalledProcessError as error:  # not every machine, or build, trains in bf16
                results.pop(f"train {way}", None)
                print(f"{way}: {error}", file=sys.stderr)
shutil.rmtree(SERVER, ignore_errors=True)

cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
name = f"{datetime.date.today()}-{re.sub('[^a-z0-9]+', '-', cpu.lower()).strip('-')}{'-quick' if options.quick else ''}.json"
written = options.out or Path("bench/results") / name
written.parent.mkdir(parents=True, exist_ok=True)
written.write_text(json.dumps({"cpu": cpu, "cores": os.cpu_count(), "rounds": rounds, "results": results}, indent=1) + "\n")


def median(what, figure):
    return statistics.median(result[figure] for result in results[what])


def spread(what, figure):
    values = [result[figure] for result in results[what]]
    return f"{min(values):.4g} to {max(values):.4g}"


print(f"{'WHAT':44}{'TEXTS/S':>9}  {'(SPREAD)':22}{'P50 MS':>8}{'P99 MS':>8}{'OF PEAK':>9}")
for what in results:
    if what.startswith(("classify", "bulk", "serve")):
        share = f"{median(what, 'share_of_peak'):.3f}" if "share_of_peak" in results[what][0] else ""
        print(f"{what:44}{median(what, 'texts_per_second'):9.1f}  ({spread(what, 'texts_per_second'):20}){median(what, 'p50_ms'):8.1f}"
              f"{median(what, 'p99_ms'):8.1f}{share:>9}")
print(f"\n{'WHAT':44}{'TOKENS/S':>9}  {'(SPREAD)':22}{'STEP S':>8}")
for what in results:
    if what.startswith("train"):
        print(f"{what:44}{median(what, 'tokens_per_second'):9.1f}  ({spread(what, 'tokens_per_second'):20}){median(what, 'step_seconds'):8.2f}")
print("\nAgainst the best peer of the same precision, medians:")
for task in TASKS if options.only in (None, "classify") else []:
    for precision, ways in PEERS.items():
        ours = f"classify {task} {precision}"
        bulk = max(median(f"classify {task} {way}", "texts_per_second") for way in ways)
        alone = min(median(f"classify {task} {way}", "p50_ms") for way in ways)
        print(f"  {task} {precision}: {median(ours, 'texts_per_second') / bulk:.2f}x in bulk, {alone / median(ours, 'p50_ms'):.2f}x one at a time (p50)")
for what in results:
    if what.startswith("serve"):
        _, task, precision, load = what.split()
        ratio = median(what, "texts_per_second") / median(f"bulk {task} {precision}", "texts_per_second")
        print(f"  through a server, {task} {precision}, {load.replace('x', ' callers of ')} texts: {ratio:.2f}x of bulk in one process")
for precision, ways in TRAINING.items() if options.only in (None, "train") else []:
    for way in ways if f"train {precision}" in results else []:
        ratio = median(f"train {precision}", "tokens_per_second") / median(f"train {way}", "tokens_per_second")
        memory = median(f"train {precision}", "memory_above_mib") / median(f"train {way}", "memory_above_mib")
        print(f"  training in {precision} against {way}: {ratio:.2f}x tokens a second, {memory:.2f}x memory above weights, gradients and moments")
print(f"\nwritten to {written}")
