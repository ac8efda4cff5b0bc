"""Builds the programs of docs/clients.md as written and runs them: against tasukid, plain and with TLS and tokens, and against
a server that follows a script.

usage: client_examples.py DATA_DIRECTORY WORK_DIRECTORY [--only LANGUAGE]

DATA_DIRECTORY is a tasukid's, with models/reviews (tests/verify/serving.bash has small_models); tasukid and tasuki are on the
PATH. A section of the page ("## Go") that has fenced blocks is a language: a block whose first line is a comment with a file
name is that file, the last bash block has the examples, a command a line, and those before it build them. They run in an empty
directory of WORK_DIRECTORY. Every example has to print the labels and probabilities that the server gives a client of our own.
Prints "N examples ran" last; exits with 1 if one did not do what the page says, or a tool that its commands need is missing.

Wants grpcio, grpcio-tools and googleapis-common-protos, openssl, and what the page's commands need: Go, protoc, Maven, a JDK,
grpc_java_plugin, Node.js, npm, unzip.
"""

import argparse
import concurrent.futures
import contextlib
import importlib.resources
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
MODEL = "models/reviews"
TOOLS = {
    "Go": ["go", "protoc", "python3", "unzip"],
    "Java": ["java", "javac", "mvn", "grpc_java_plugin"],
    "Node": ["node", "npm"],
}
HEALTH_WATCHED = {"Go", "Java"}  # the page says so
CLASSIFY = "/tasuki.v1.ClassificationService/Classify"
WATCH = "/grpc.health.v1.Health/Watch"

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("data", type=Path)
parser.add_argument("work", type=Path)
parser.add_argument("--only", choices=TOOLS)
options = parser.parse_args()
work = options.work.resolve()
work.mkdir(parents=True, exist_ok=True)

packages = Path(str(importlib.resources.files("google") / "rpc")).parents[1]
if protoc.main(["", f"-I{ROOT}/proto", f"-I{packages}", f"-I{Path(protoc.__file__).parent}/_proto", f"--python_out={work}",
                "tasuki/v1/classification.proto"]):
    sys.exit("protoc failed")
sys.path.insert(0, str(work))
from tasuki.v1 import classification_pb2 as pb  # noqa: E402


@dataclass
class Language:
    """A section of the page."""

    name: str
    files: dict[str, str] = field(default_factory=dict)  # by the name that their first line says
    bash: list[str] = field(default_factory=list)
    runs: int = 0

    @property
    def directory(self) -> Path:
        return work / self.name.lower()

    @property
    def examples(self) -> list[str]:
        return self.bash[-1].splitlines()

    def build(self) -> None:
        missing = [tool for tool in TOOLS[self.name] if shutil.which(tool) is None]
        if missing:
            sys.exit(f"{self.name}: {', '.join(missing)} is not on the PATH; the examples of {self.name} cannot be tried")
        shutil.rmtree(self.directory, ignore_errors=True)
        for name, text in self.files.items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        begin = time.monotonic()
        for block in self.bash[:-1]:
            self.sh("set -e\n" + block, {}, 900, check=True)
        print(f"{self.name}: built in {time.monotonic() - begin:.0f} s", flush=True)

    def sh(self, command: str, environment: dict[str, str], timeout: float, check: bool = False) -> subprocess.CompletedProcess:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TASUKI_")}
        ran = subprocess.run(["bash", "-c", command], cwd=self.directory, env={**kept, "TASUKI": str(ROOT), **environment},
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout)
        if check and ran.returncode != 0:
            sys.exit(f"{self.name}: failed with {ran.returncode}: {command}\n{ran.stdout}{ran.stderr}")
        return ran

    def expect(self, command: str, environment: dict[str, str], status: int, *texts: str) -> str:
        """Runs an example; every one of `texts` has to be in what it printed."""
        ran = self.sh(command, environment, 60)
        printed = ran.stdout + ran.stderr
        # Go spells codes without "_".
        plain = printed.replace("_", "").lower()
        if ran.returncode != status or any(text.replace("_", "").lower() not in plain for text in texts):
            sys.exit(f"{self.name}: {command}\nended with {ran.returncode} (expected {status}, with {texts}) and printed\n{printed}")
        self.runs += 1
        return ran.stdout


def languages() -> list[Language]:
    """Those of the page."""
    page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    found = []
    for section in re.split(r"^## ", page, flags=re.M)[1:]:
        language = Language(section.split("\n", 1)[0].strip())
        for kind, text in re.findall(r"^```(\w+)\n(.*?)^```$", section, flags=re.M | re.S):
            named = re.match(r"(?://|#|<!--) ([\w./-]+\.\w+)(?: -->)?\n", text)
            if named:
                language.files[named[1]] = text
            elif kind == "bash":
                language.bash.append(text)
        if language.files:
            found.append(language)
    if sorted(language.name for language in found) != sorted(TOOLS) or any(len(language.bash) < 2 for language in found):
        sys.exit(f"the page has examples of {[language.name for language in found]}; they should be of {list(TOOLS)}")
    return [language for language in found if options.only in (None, language.name)]


@contextlib.contextmanager
def tasukid(*flags: str):
    """A server on the data directory; its address."""
    ready = work / "ready.json"
    ready.unlink(missing_ok=True)
    with open(work / "server.log", "ab") as log:
        server = subprocess.Popen(["tasukid", f"--data_dir={options.data}", "--listen=127.0.0.1:0", "--metrics_listen=none",
                                   f"--ready_file={ready}", *flags], stderr=log)
    try:
        while not ready.exists() or not ready.read_text():
            if server.poll() is not None:
                sys.exit(f"tasukid did not start; see {work}/server.log")
            time.sleep(0.05)
        yield json.loads(ready.read_text())["listen"]
    finally:
        server.terminate()
        server.wait(60)


@contextlib.contextmanager
def scripted(*script):
    """A server that answers each Classify by the next of `script`: an answer, a google.rpc.Status, or None for never.
    Its address, and the list of methods that were called."""
    steps = list(script)
    calls: list[str] = []

    def classify(request: bytes, context: grpc.ServicerContext) -> bytes:
        step = steps.pop(0) if steps else status_pb2.Status(code=grpc.StatusCode.INTERNAL.value[0], message="the script is over")
        if step is None:
            while context.is_active():
                time.sleep(0.05)
            return b""
        if isinstance(step, status_pb2.Status):
            context.set_trailing_metadata((("grpc-status-details-bin", step.SerializeToString()),))
            context.abort(next(code for code in grpc.StatusCode if code.value[0] == step.code), step.message)
        return step.SerializeToString()

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            calls.append(details.method)
            return grpc.unary_unary_rpc_method_handler(classify) if details.method == CLASSIFY else None

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), handlers=[Handler()])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield address, calls
    finally:
        server.stop(None)


def failure(code: grpc.StatusCode, reason: str, seconds: float) -> status_pb2.Status:
    status = status_pb2.Status(code=code.value[0], message="scripted")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="tasuki"))
    delay = duration_pb2.Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
    status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def expected_lines(address: str, command: str) -> str:
    """What an example has to print: its texts are its quoted words, or else the lines of the file it reads."""
    texts = re.findall(r"'([^']*)'", command.split(MODEL, 1)[1])
    if not texts:
        texts = Path(re.search(r'< "\$TASUKI/([^"]+)"', command)[1]).read_text(encoding="utf-8").splitlines()
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(CLASSIFY, pb.ClassifyRequest.SerializeToString, pb.ClassifyResponse.FromString)
        answer = call(pb.ClassifyRequest(model=MODEL, texts=texts, top_k=1), timeout=60, wait_for_ready=True)
    assert len(answer.results) == len(texts) > 0
    return "".join(f"{each.task}\t{each.label}\t{each.scores[0].probability:.4f}\n"
                   for result in answer.results for each in result.predictions)


def loaded(address: str) -> None:
    """Waits until the model answers."""
    request = b"\x0a" + bytes([len(MODEL)]) + MODEL.encode()
    with grpc.insecure_channel(address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check", None, None)
        for _ in range(300):
            with contextlib.suppress(grpc.RpcError):
                if check(request, timeout=5) == b"\x08\x01":
                    return
            time.sleep(0.1)
    sys.exit(f"{MODEL} was not loaded within 30 s")


def certificates() -> None:
    """A CA, a server's certificate for 127.0.0.1, and a CA that did not sign it."""
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    (work / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for command in (
        *(["req", "-x509", *curve, "-days", "2", "-subj", "/CN=CA", "-keyout", f"{name}.key", "-out", f"{name}.pem"]
          for name in ("ca", "other")),
        ["req", *curve, "-subj", "/CN=server", "-keyout", "server.key", "-out", "server.csr"],
        ["x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
         "-extfile", "names", "-out", "server.pem"],
    ):
        subprocess.run(["openssl", *command], cwd=work, check=True, capture_output=True)
    (work / "server.key").chmod(0o600)


def token() -> str:
    """A token of the role classify, whose line is in the file of tokens."""
    made = json.loads(subprocess.run(["tasuki", "--output", "json", "token", "create", "--name", "app1", "--role", "classify"],
                                     check=True, capture_output=True, text=True).stdout)
    (work / "tokens").write_text(made["line"] + "\n")
    return made["token"]


def against_scripts(language: Language) -> None:
    """Retries by the service config, what comes with an error, the deadline."""
    command = language.examples[0]
    score = pb.LabelScore(label="glad", probability=0.75)
    prediction = pb.Prediction(task="mood", label="glad", scores=[score])
    answer = pb.ClassifyResponse(results=[pb.TextPredictions(predictions=[prediction])])
    draining = failure(grpc.StatusCode.UNAVAILABLE, "DRAINING", 1)
    full = failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", 1.5)
    for script, attempts, status, texts in (
        ([draining, draining, answer], 3, 0, ["mood\tglad\t0.7500"]),
        ([draining] * 9, 4, 1, ["UNAVAILABLE", "reason: DRAINING", "try again after: 1"]),
        ([full, answer], 1, 1, ["RESOURCE_EXHAUSTED", "scripted", "reason: QUEUE_FULL", "try again after: 1.5"]),
        ([None], 1, 1, ["DEADLINE_EXCEEDED"]),
    ):
        with scripted(*script) as (address, calls):
            language.expect(command, {"TASUKI_SERVER": address}, status, *texts)
            if calls.count(CLASSIFY) != attempts:
                sys.exit(f"{language.name}: {calls.count(CLASSIFY)} attempts instead of {attempts}")
            if (WATCH in calls) != (language.name in HEALTH_WATCHED):
                sys.exit(f"{language.name}: health was {'' if WATCH in calls else 'not '}watched, the page says otherwise")


def main() -> None:
    tried = languages()
    for language in tried:
        language.build()
    for language in tried:
        against_scripts(language)

    secret = token()
    certificates()
    expected = {}
    with tasukid() as address:
        loaded(address)
        for language in tried:
            for command in language.examples:
                expected[command] = expected_lines(address, command)
                compare(language, command, {"TASUKI_SERVER": address}, expected[command])
                # The stream itself ends well if a request in it fails.
                status = 0 if "<" in command else 1
                language.expect(command.replace(MODEL, "models/none"), {"TASUKI_SERVER": address}, status, "NOT_FOUND", "reason: RESOURCE_NOT_FOUND")
            refused = language.sh(language.examples[0], {"TASUKI_SERVER": address, "TASUKI_TOKEN": secret}, 60)
            if refused.returncode == 0:
                sys.exit(f"{language.name}: a token was sent without TLS")
    with tasukid(f"--tls_certificate={work}/server.pem", f"--tls_key={work}/server.key", f"--tokens_file={work}/tokens") as address:
        secure = {"TASUKI_SERVER": address, "TASUKI_TLS_CA": f"{work}/ca.pem"}
        for language in tried:
            for command in language.examples:
                compare(language, command, {**secure, "TASUKI_TOKEN": secret}, expected[command])
            language.expect(language.examples[0], secure, 1, "UNAUTHENTICATED", "reason: TOKEN_MISSING")
            language.expect(language.examples[0], {**secure, "TASUKI_TOKEN": "tasuki_wrong"}, 1, "UNAUTHENTICATED", "reason: TOKEN_INVALID")
            language.expect(language.examples[0], {**secure, "TASUKI_TLS_CA": f"{work}/other.pem"}, 1, "UNAVAILABLE")
    print(f"{sum(language.runs for language in tried)} examples ran: " +
          ", ".join(f"{language.name} {language.runs}" for language in tried))


def compare(language: Language, command: str, environment: dict[str, str], expected: str) -> None:
    printed = language.expect(command, environment, 0)
    if printed != expected:
        sys.exit(f"{language.name}: {command}\nprinted\n{printed}instead of\n{expected}")


main()
