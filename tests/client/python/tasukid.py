"""A real tasukid of the build, with a tiny model in it, for the tests of the Python client.

TASUKI_BIN names the folder of the programs. The server listens on free ports of 127.0.0.1 and has its data in a temporary
directory; both are gone when the process of the tests ends.
"""

import atexit
import functools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tasuki

THINGS = ("カメラ", "椅子", "本", "鞄", "時計", "靴", "傘", "机")
SENTIMENT = [
    (f"{day}日前に届いた{thing}は{judgement}", label)
    for thing in THINGS
    for day in (1, 2, 3)
    for judgement, label in (("最高です。", "positive"), ("普通です。", "neutral"), ("壊れていました。", "negative"))
]
COUNTERFACTUAL = [
    row
    for thing in THINGS
    for price in range(1, 5)
    for row in (
        (f"{price}000円の{thing}がもっと軽ければ買ったのに。", "1"),
        (f"{price}000円の{thing}は軽いので買いました。", "0"),
    )
]
TINY = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_heads": 2, "num_layers": 1, "num_decoder_layers": 1}


class Tasukid:
    """A server as a child process. `stop` fails if it does not end well."""

    def __init__(self, data: Path, listen: str = "127.0.0.1:0") -> None:
        ready = data.parent / "ready.json"
        ready.unlink(missing_ok=True)
        self.log = data.parent / "server.log"
        program = Path(os.environ["TASUKI_BIN"]) / "tasukid"
        command = [program, f"--data_dir={data}", f"--listen={listen}", "--metrics_listen=none", f"--ready_file={ready}"]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stderr=log)
        deadline = time.monotonic() + 60
        while not (ready.exists() and ready.stat().st_size):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"tasukid did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.05)
        self.address: str = json.loads(ready.read_text())["listen"]

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            if self.process.wait(timeout=60) != 0:
                raise RuntimeError(f"tasukid ended badly: {self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass(frozen=True)
class World:
    """A server with `models/base/versions/1`, and `models/reviews/versions/1` that was fine-tuned on both tasks."""

    directory: Path
    server: Tasukid
    counterfactual: str
    sentiment: str


@functools.cache
def world() -> World:
    directory = Path(tempfile.mkdtemp(prefix=f"tasuki-client-{os.getpid()}-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    server = Tasukid(directory / "data")
    atexit.register(server.stop)
    with tasuki.Client(server.address) as client:
        counterfactual = client.datasets.upload(COUNTERFACTUAL, display_name="counterfactual").name
        sentiment = client.datasets.upload(SENTIMENT, display_name="sentiment").name
        base = {
            "model": "base",
            "pretraining": {
                "datasets": [counterfactual, sentiment],
                "vocabulary_size": 300,
                "required_texts": ["はい", "いいえ", "positive", "neutral", "negative", ": _"],
                "size": TINY,
                "recipe": {"steps": 8, "batch_size": 8, "max_input_tokens": 32},
            },
        }
        client.jobs.wait(client.jobs.create(base, id="base").name)
        client.jobs.wait(client.jobs.create(reviews_job(counterfactual, sentiment), id="reviews").name)
    return World(directory, server, counterfactual, sentiment)


def reviews_job(counterfactual: str, sentiment: str) -> dict[str, object]:
    return {
        "model": "reviews",
        "fine_tuning": {
            "base_model_version": "base",
            "tasks": [
                {
                    "name": "counterfactual",
                    "labels": [
                        {"name": "factual", "target_text": "いいえ", "values": [0]},
                        {"name": "counterfactual", "target_text": "はい", "values": [1]},
                    ],
                    "train_dataset": counterfactual,
                    "valid_dataset": counterfactual,
                },
                sentiment_task(sentiment),
            ],
            "recipe": {"steps": 12, "evaluate_every_steps": 6, "max_input_tokens": 64},
        },
    }


def sentiment_task(sentiment: str) -> dict[str, object]:
    return {
        "name": "sentiment",
        "labels": [{"name": "negative"}, {"name": "neutral"}, {"name": "positive"}],
        "train_dataset": sentiment,
        "valid_dataset": sentiment,
    }


def long_job(sentiment: str, steps: int = 100_000) -> dict[str, object]:
    """Fine-tuning that takes longer than a test unless it is stopped."""
    return {
        "model": "long",
        "fine_tuning": {
            "base_model_version": "base",
            "tasks": [sentiment_task(sentiment)],
            "recipe": {"steps": steps, "evaluate_every_steps": steps, "max_input_tokens": 64},
        },
    }
