"""A real tasukid of the release build, in a directory of its own; for benches."""

import json
import os
import subprocess
import time
from pathlib import Path

BIN = Path("build/release/bin")


class Tasukid:
    """Runs while its `with` lasts; `directory` stays."""

    def __init__(self, directory, *flags):
        self.directory, self.flags = Path(directory), flags

    def __enter__(self):
        self.directory.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        ready = self.directory / "ready.json"
        ready.unlink(missing_ok=True)
        with open(self.directory / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                [BIN / "tasukid", f"--data_dir={self.directory}/data", "--listen=127.0.0.1:0", "--metrics_listen=none", f"--ready_file={ready}", *self.flags],
                stderr=log)
        deadline = time.monotonic() + 60
        while not ready.is_file() or not ready.read_text():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"tasukid did not start; see {self.directory}/server.log")
            time.sleep(0.05)
        self.address = json.loads(ready.read_text())["listen"]

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        if self.process.wait() != 0:
            raise RuntimeError(f"tasukid ended with {self.process.returncode}; see {self.directory}/server.log")

    def tasuki(self, *arguments):
        """What `tasuki --output json` prints, as an object."""
        command = [BIN / "tasuki", "--output", "json", *map(str, arguments)]
        output = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env={**os.environ, "TASUKI_SERVER": self.address}).stdout
        return json.loads(output) if output.strip() else None

    def await_loaded(self, version, seconds=120):
        deadline = time.monotonic() + seconds
        while True:
            state = self.tasuki("model", "get", version)["state"]
            if state == "LOADED":
                return
            if state == "FAILED" or time.monotonic() > deadline:
                raise RuntimeError(f"{version} is {state}; see {self.directory}/server.log")
            time.sleep(0.2)
