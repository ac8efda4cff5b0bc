"""Runs the checks and turns of bench/gpu, whose --help says more, and writes what they print."""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--bin", type=Path, required=True, help="where the programs are, or their folder bin")
parser.add_argument("--base", type=Path, required=True, help="model/ and amcd.txt of bench/model.py; weights are made if there are none")
parser.add_argument("--out", type=Path)
options = parser.parse_args()
BUDGET = 420  # seconds
SECONDS = "6"
begin = time.monotonic()
model, texts = options.base / "model", options.base / "amcd.txt"
peers = Path(__file__).parent / "peers"


def program(name):
    return next(path.resolve() for path in (options.bin / name, options.bin / "bin" / name) if path.exists())


def run(command, **environment):
    """What the command prints; it is stopped where it would outrun the budget."""
    print("·", " ".join(map(str, command)), file=sys.stderr, flush=True)
    # The own programs bring libraries along that are none of Python's.
    own = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH" or command[0] != sys.executable}
    left = max(1, BUDGET - (time.monotonic() - begin))
    return subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=min(150, left),
                          env={**own, **environment})


if not (model / "model.safetensors").is_file():
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    config = (model / "config.json").read_bytes()
    torch.manual_seed(0)
    T5ForConditionalGeneration(T5Config.from_json_file(model / "config.json")).save_pretrained(model)
    (model / "config.json").write_bytes(config)

gpu, driver = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True,
                             check=True).stdout.splitlines()[0].split(", ")
failures = []
try:
    tests = run([program("model_training_test"), "--gtest_filter=GpuTest.*:*OnAGpu*"])
    checks = {"exit_code": tests.returncode, "lines": [line for line in tests.stdout.splitlines() if "differ" in line or line.startswith("[  ")]}
    if tests.returncode != 0 or "SKIPPED" in tests.stdout or "PASSED" not in tests.stdout:
        failures.append("GpuTest.*")
        print(tests.stdout, file=sys.stderr)
except subprocess.TimeoutExpired as expired:
    checks = {"exit_code": None, "lines": (expired.stdout or b"").decode(errors="replace").splitlines()}
    failures.append("GpuTest.*: too slow")

train = lambda precision, batch: [program("bench-train"), model, texts, batch, SECONDS, precision, 4, "cuda:0"]
classify = lambda precision: [program("bench-classify"), model, "amcd", texts, precision, "--tokens", 16384, "--texts", 934, "--seconds", SECONDS,
                              "--device", "cuda:0"]
peer = lambda name, *arguments: [sys.executable, peers / f"{name}.py", model, *arguments]
turns = {}
for batch in (8, 64):
    for precision in ("fp32", "bf16"):
        turns[f"train ours {precision}, batch {batch}"] = train(precision, batch), {}
        turns[f"train transformers longest-{precision}, batch {batch}"] = \
            peer("train", texts, f"longest-{precision}", batch, SECONDS, 4, "cuda"), {}
turns["train ours bf16, batch 8, without graphs"] = train("bf16", 8), {"TASUKI_CUDA_GRAPHS": "off"}
for precision in ("fp32", "bf16"):
    turns[f"classify ours {precision}"] = classify(precision), {}
    turns[f"classify transformers step-{precision}"] = \
        peer("classify", "amcd", texts, f"transformers-step-{precision}", "--batch", 256, "--texts", 934, "--seconds", SECONDS, "--device", "cuda"), {}
turns["classify ours bf16, without graphs"] = classify("bf16"), {"TASUKI_CUDA_GRAPHS": "off"}

results = {}
for name, (command, environment) in turns.items():
    if time.monotonic() - begin > BUDGET - 15:
        failures.append(f"{name}: no time was left")
        continue
    try:
        output = run(command, **environment).stdout
        results[name] = json.loads(output.splitlines()[-1])
        figures = {key: results[name][key] for key in ("tokens_per_second", "texts_per_second", "p50_ms", "step_seconds", "tflops") if key in results[name]}
        print(name, figures, flush=True)
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        failures.append(f"{name}: {type(error).__name__}")
        print(output[-2000:] if isinstance(error, (ValueError, IndexError)) else error, file=sys.stderr)

slug = re.sub("[^a-z0-9]+", "-", gpu.lower()).strip("-")
beside = Path("bench/results") if Path("bench/results").is_dir() else options.base.parent
written = options.out or beside / f"{datetime.date.today()}-{slug}.json"
written.write_text(json.dumps({"gpu": gpu, "driver": driver, "seconds": round(time.monotonic() - begin), "failures": failures, "checks": checks,
                               "commands": {name: " ".join(map(str, command)) for name, (command, _) in turns.items()},
                               "results": results}, indent=1, ensure_ascii=False) + "\n")
for failure in failures:
    print(f"FAILED {failure}")
print(f"{len(results)} of {len(turns)} measured on {gpu}; written to {written}")
sys.exit(1 if failures else 0)
