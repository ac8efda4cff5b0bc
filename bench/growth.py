"""What Tasuki costs as things grow: rows of a dataset, jobs in the store, watchers of a job. One line of JSON a figure.

usage: growth.py [--rows N] [--jobs N] [--watchers N] [--only rows|jobs|watchers] [--check] [TEXTS]

TEXTS has one text a line (default: build/bench/base/amcd.txt); row i has one of them, and the number i. A tasukid of the
release build runs in build/bench/growth, with a tiny model that it pre-trains on 1,000 rows. With --check the last line of a
part says whether it grows as it should, and the exit code is 1 if one does not.

rows: for 1,000, N / 10 and N rows, seconds of an upload and of a training job before its first step, processor time of server
and trainer, and the most memory they had, in MiB. `flat` is the processor time of a row between N / 10 and N, over that between
1,000 and N / 10: what is paid once is in neither. Wanted: at most 1.25, at most 64 MiB more memory for N rows than for 1,000,
leaving out what the system can take back: pages of files.
jobs: milliseconds of pages of a listing (bench-growth list), with N jobs: copies of one that the server ran. Wanted: each at
most 50.
watchers: N streams of one job over N / 10 connections (bench-growth watch), and what they cost the server. Wanted: nothing
lost, at most 128 KiB a watcher, and 200 microseconds an event and watcher.
"""

import argparse
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

from tasukid import BIN, Tasukid

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("texts", type=Path, nargs="?", default=Path("build/bench/base/amcd.txt"))
parser.add_argument("--rows", type=int, default=1_000_000)
parser.add_argument("--jobs", type=int, default=100_000)
parser.add_argument("--watchers", type=int, default=1_000)
parser.add_argument("--only", choices=["rows", "jobs", "watchers"])
parser.add_argument("--check", action="store_true")
options = parser.parse_args()

NUMBERS = {"PAUSED": 3, "SUCCEEDED": 5, "FAILED": 6, "CANCELLED": 7}  # TrainingJob.State
directory = Path("build/bench/growth")
shutil.rmtree(directory, ignore_errors=True)
directory.mkdir(parents=True)
texts = options.texts.read_text(encoding="utf-8").splitlines()


def say(what, **figures):
    print(json.dumps({"what": what, **{k: round(v, 3) if isinstance(v, float) else v for k, v in figures.items()}}), flush=True)


def conclude(good, text):
    """The last line of a part."""
    global all_good
    all_good &= bool(good)
    if options.check:
        print(text, flush=True)


all_good = True


def memory(pid, field="VmHWM"):
    """MiB, or 0 if the process is gone."""
    try:
        return int(re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) / 1024
    except (FileNotFoundError, ProcessLookupError, TypeError):
        return 0


def forget_peak(pid):
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cpu_seconds(pid):
    """Of its own, since it began; 0 if the process is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rows_file(count):
    path = directory / f"{count}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            file.write(json.dumps({"text": f"{texts[i % len(texts)]} {i}", "label": str(i % 2)}, ensure_ascii=False) + "\n")
    return path


def children(task):
    try:
        return (task / "children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []


class Trainer:
    """What the server's trainer needs while this runs: memory at most, in MiB, of all and of what is not of a file; CPU seconds."""

    def __init__(self, server):
        self.server, self.over, self.all, self.anonymous, self.cpu = server.process.pid, False, 0, 0, 0
        self.thread = threading.Thread(target=self.look)

    def look(self):
        while not self.over:
            pids = {pid for task in Path(f"/proc/{self.server}/task").iterdir() for pid in children(task)}
            for pid in pids:
                self.all = max(self.all, memory(pid))
                self.anonymous = max(self.anonymous, memory(pid, "RssAnon"))
                self.cpu = max(self.cpu, cpu_seconds(pid))
            time.sleep(0.01)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over = True
        self.thread.join()


def submit(server, name, specification):
    path = directory / f"{name}.json"
    path.write_text(json.dumps(specification))
    return server.tasuki("job", "submit", "--file", path, "--id", name)


def events(server, name):
    """All events of a job, once it has ended."""
    output = subprocess.run([BIN / "tasuki", "--output", "json", "job", "watch", name], stdout=subprocess.PIPE, text=True,
                            env={**os.environ, "TASUKI_SERVER": server.address}).stdout
    return [json.loads(line) for line in output.splitlines()]


def moment(event):
    return datetime.fromisoformat(event["create_time"].replace("Z", "+00:00")).timestamp()


def fine_tuning(dataset, **recipe):
    return {"model": "models/growth", "fine_tuning": {
        "base_model_version": "models/base/versions/1",
        "tasks": [{"name": "t", "labels": [{"name": "0"}, {"name": "1"}], "train_dataset": dataset}],
        "recipe": {"batch_size": 8, "max_input_tokens": 64, **recipe}}}


def make_base(server):
    dataset = server.tasuki("dataset", "upload", rows_file(1000))["name"]
    submit(server, "base", {"model": "models/base", "pretraining": {
        "datasets": [dataset], "size": {"preset": "TINY"}, "vocabulary_size": 4000, "required_texts": ["0 1"],
        "recipe": {"steps": 1, "batch_size": 8, "max_input_tokens": 64}}})
    events(server, "base")
    return dataset


def measure_rows(server):
    pid = server.process.pid
    counts = [1000, options.rows // 10, options.rows]
    uploads, preparations, server_memory, trainer_memory = [], [], [], []
    for count in counts:
        path = rows_file(count)
        forget_peak(pid)
        before, cpu, begin = memory(pid), cpu_seconds(pid), time.perf_counter()
        dataset = server.tasuki("dataset", "upload", path)["name"]
        seconds = time.perf_counter() - begin
        uploads.append(cpu_seconds(pid) - cpu)
        server_memory.append(memory(pid) - before)
        say(f"upload of {count} rows", seconds=seconds, server_cpu_seconds=uploads[-1], server_mib_more=server_memory[-1])
        path.unlink()
        name = f"rows-{count}"
        with Trainer(server) as trainer:
            submit(server, name, fine_tuning(dataset, steps=1))
            history = events(server, name)
        running = next(moment(e) for e in history if e.get("state_changed", {}).get("state") == "RUNNING")
        training = next(moment(e) for e in history if e.get("progress", {}).get("phase") == "TRAINING")
        preparations.append(trainer.cpu)
        trainer_memory.append(trainer.anonymous)
        say(f"preparation of {count} rows", seconds=training - running, trainer_cpu_seconds=trainer.cpu, trainer_mib=trainer.all,
            trainer_mib_not_of_files=trainer.anonymous)
    flat = {}
    for what, seconds in (("upload", uploads), ("preparation", preparations)):
        few, many = ((seconds[i + 1] - seconds[i]) / (counts[i + 1] - counts[i]) for i in (0, 1))
        flat[what] = many / few
        say(f"{what}: processor time of a row", microseconds=many * 1e6, flat=flat[what])
    trainer_more = trainer_memory[-1] - trainer_memory[0]
    conclude(max(flat.values()) <= 1.25 and max(server_memory) <= 64 and trainer_more <= 64,
             f"of {options.rows} rows a row costs {flat['upload']:.2f} and {flat['preparation']:.2f} of what it costs of fewer, uploaded and prepared; "
             f"the server had {server_memory[-1]:.0f} MiB more, the trainer {trainer_more:.0f}")


def measure_jobs(server):
    """The last job that ran, N times over, put into the store while the server is down."""
    server.stop()
    store = sqlite3.connect(server.directory / "data" / "tasuki.db")
    (name, message), = store.execute("SELECT name, message FROM jobs ORDER BY seq DESC LIMIT 1").fetchall()
    (first,), = store.execute("SELECT MAX(seq) + 1 FROM jobs").fetchall()
    states = ["SUCCEEDED"] * 6 + ["FAILED", "CANCELLED"]

    def row(i):
        state = "PAUSED" if i == 0 else states[i % len(states)]
        copy = message.replace(name, f"trainingJobs/copy-{i}").replace('"SUCCEEDED"', f'"{state}"')
        return f"trainingJobs/copy-{i}", first + i, NUMBERS[state], copy

    store.executemany("INSERT INTO jobs (name, seq, state, message) VALUES (?, ?, ?, ?)", map(row, range(options.jobs)))
    store.execute("UPDATE counters SET value = ? WHERE name = 'jobs'", (first + options.jobs,))
    store.commit()
    store.close()
    begin = time.perf_counter()
    server.start()
    say(f"start with {options.jobs} jobs", seconds=time.perf_counter() - begin)
    output = subprocess.run([BIN / "bench-growth", server.address, "list"], stdout=subprocess.PIPE, check=True, text=True).stdout
    print(output, end="", flush=True)
    pages = json.loads(output)["milliseconds"]
    slowest = max(pages, key=pages.get)
    conclude(pages[slowest] <= 50, f"of {options.jobs} jobs the slowest page ({slowest}) takes {pages[slowest]:.1f} ms, the first 50 {pages['first 50']:.1f} ms")


def measure_watchers(server, dataset):
    pid, watchers, connections = server.process.pid, options.watchers, max(1, options.watchers // 10)
    costs = []
    for name in ("unwatched", "watched"):
        forget_peak(pid)
        before, cpu, begin = memory(pid), cpu_seconds(pid), time.perf_counter()
        submit(server, name, fine_tuning(dataset, steps=300, evaluate_every_steps=10, checkpoint_every_steps=100))
        result = {}
        if name == "watched":
            command = [BIN / "bench-growth", server.address, "watch", f"trainingJobs/{name}", str(watchers), str(connections)]
            result = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout)
        count = len(events(server, name))
        costs.append(cpu_seconds(pid) - cpu)
        result.update(what=f"a job that is {name}", events=count, seconds=time.perf_counter() - begin, server_cpu_seconds=costs[-1],
                      server_mib_more=memory(pid) - before)
        say(**result)
    microseconds = (costs[1] - costs[0]) / count / watchers * 1e6
    conclude(result["lost"] == result["failed"] == 0 and result["server_mib_more"] <= watchers / 8 and microseconds <= 200,
             f"{watchers} watchers had all {count} events, {result['lost']} lost; each cost the server {microseconds:.0f} microseconds a watcher; "
             f"{result['server_mib_more']:.0f} MiB more; half the events came within {result['lag_p50_ms']:.0f} ms")


with Tasukid(directory, "--training_threads=1") as server:
    dataset = make_base(server)
    if options.only in (None, "rows"):
        measure_rows(server)
    if options.only in (None, "watchers"):
        measure_watchers(server, dataset)
    if options.only in (None, "jobs"):
        measure_jobs(server)
shutil.rmtree(directory)
sys.exit(options.check and not all_good)
