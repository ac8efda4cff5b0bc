"""Calls a running server in every way that callers do, right and wrong, and looks at what comes back and what stays.

usage: mixed_calls.py ADDRESS MODEL TASK PID [--calls N] [--callers N] [--seed S]

N calls (10,000) by 16 callers at once, in an order that the seed decides: right ones with every option, alone and on streams;
wrong ones; cancelled and expired ones; huge and empty ones; bytes that are not UTF-8 and bytes that are no message. Each has
the codes that it may end with. A call that a full queue refuses is made again when the server said. PID is the server's: its
memory, files and threads are looked at after a tenth of the calls (1,000 or half of them at least: the allocator keeps what 16
callers need at once) and at the end. Prints a line for each kind and one with what
grew; exits with 1 if a code was not as expected, an answer was wrong, memory grew by 32 MB, or files or threads by 4.

Wants grpcio, grpcio-tools and googleapis-common-protos.
"""

import argparse
import collections
import importlib.resources
import os
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_tools import protoc

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("address")
parser.add_argument("model")
parser.add_argument("task")
parser.add_argument("pid", type=int)
parser.add_argument("--calls", type=int, default=10_000)
parser.add_argument("--callers", type=int, default=16)
parser.add_argument("--seed", type=int, default=1)
options = parser.parse_args()

proto = Path(__file__).resolve().parents[2] / "proto"
stubs = tempfile.mkdtemp()
packages = Path(str(importlib.resources.files("google") / "rpc")).parents[1]
if protoc.main(["", f"-I{proto}", f"-I{packages}", f"-I{protoc.__file__.rsplit('/', 1)[0]}/_proto", f"--python_out={stubs}",
                f"--grpc_python_out={stubs}", "tasuki/v1/classification.proto"]):
    sys.exit("protoc failed")
sys.path.insert(0, stubs)
from tasuki.v1 import classification_pb2 as pb  # noqa: E402
from tasuki.v1 import classification_pb2_grpc as pb_grpc  # noqa: E402

Code = grpc.StatusCode
CLASSIFY = "/tasuki.v1.ClassificationService/Classify"
TEXT = "とても良い商品でした。もっと早く買っていればよかった。"
LONG = TEXT * 200
Request = pb.ClassifyRequest


class Wrong(Exception):
    """An answer that is not what was asked for."""


def request(texts=(TEXT,), **fields):
    return Request(model=options.model, texts=texts, **fields)


def check(asked, answer):
    """That an answer has what a right request asked for."""
    if not answer.model_version.startswith(options.model) or len(answer.results) != len(asked.texts):
        raise Wrong(f"{len(answer.results)} results of {answer.model_version} to {len(asked.texts)} texts")
    for text, result in zip(asked.texts, answer.results):
        for prediction in result.predictions:
            scores = prediction.scores
            if asked.top_k and len(scores) > asked.top_k or not asked.top_k and abs(sum(s.probability for s in scores) - 1) > 1e-6:
                raise Wrong(f"{len(scores)} scores, which add up to {sum(s.probability for s in scores)}")
            if prediction.label != scores[0].label or prediction.token_count < 1 or (len(text) < 200 and prediction.truncated):
                raise Wrong(f"a prediction {prediction}")
    if not answer.stage_times.HasField("forward"):
        raise Wrong("no stage times")


class Caller:
    """One connection, and the calls that go over it."""

    def __init__(self, seed):
        own = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.insecure_channel(options.address, options=own)
        self.stub = pb_grpc.ClassificationServiceStub(self.channel)
        self.random = random.Random(seed)

    # ---- kinds of calls; each answers the code that it ended with ----

    def right(self):
        asked = request([TEXT[:self.random.randrange(len(TEXT))] for _ in range(self.random.choice((1, 1, 1, 8, 64)))],
                        tasks=self.random.choice(([], [options.task])), top_k=self.random.choice((0, 0, 1, 9)),
                        truncation=self.random.randrange(4), priority=self.random.randrange(3))
        check(asked, self.stub.Classify(asked, timeout=120))

    def cut(self):
        asked = request([LONG], truncation=self.random.choice((Request.HEAD, Request.HEAD_AND_TAIL)))
        answer = self.stub.Classify(asked, timeout=120)
        check(asked, answer)
        if not answer.results[0].predictions[0].truncated:
            raise Wrong("a long text was not cut")

    def empty_text(self):
        asked = request([""] * self.random.randrange(1, 5))
        check(asked, self.stub.Classify(asked, timeout=120))

    def huge(self):
        asked = request(["x" * (1 << 20)] * self.random.choice((1, 3)), tasks=[options.task])
        check(asked, self.stub.Classify(asked, timeout=120))

    def wrong(self):
        bad = self.random.choice((
            Request(), Request(model=options.model), request(tasks=["none"]), request(tasks=[options.task] * 2), request(top_k=-1),
            request(truncation=77), request(priority=-5), request([TEXT] * 257), request(["x" * ((1 << 20) + 1)]),
            request([LONG], truncation=Request.ERROR), Request(model="models/../x", texts=["x"])))
        self.stub.Classify(bad, timeout=120)

    def unknown_model(self):
        self.stub.Classify(Request(model="models/" + self.random.choice(("none", "x" * 40)), texts=["x"]), timeout=120)

    def too_large(self):
        self.stub.Classify(request(["x" * (1 << 20)] * 70), timeout=120)

    def cancelled(self):
        call = self.stub.Classify.future(request([LONG] * self.random.choice((1, 32))), timeout=120)
        time.sleep(self.random.random() * .02)
        call.cancel()
        try:
            call.result()
        except grpc.FutureCancelledError:
            return Code.CANCELLED

    def expired(self):
        self.stub.Classify(request([LONG] * 4), timeout=self.random.choice((0, .0005, .002, .01)))

    def compressed(self):
        self.stub.Classify(request(), timeout=120, compression=grpc.Compression.Gzip)

    def raw(self, payload):
        self.channel.unary_unary(CLASSIFY)(payload, timeout=120)

    def not_utf8(self):
        good = request().SerializeToString()
        text = self.random.choice((b"\xff\xfe", b"\xe3\x81", b"\xc0\x80", b"\xed\xa0\x80"))
        self.raw(good + b"\x12" + bytes([len(text)]) + text)

    def garbage(self):
        self.raw(b"\x0a\xff" + self.random.randbytes(self.random.randrange(40)))

    def messages(self, count):
        for i in range(count):
            fault = self.random.random() < .1
            yield pb.StreamClassifyRequest(id=str(i), request=request(tasks=["none"]) if fault else request([TEXT] * self.random.randrange(1, 9)))

    def stream(self):
        count = self.random.randrange(30)
        answers = list(self.stub.StreamClassify(self.messages(count), timeout=120))
        if [answer.id for answer in answers] != [str(i) for i in range(count)]:
            raise Wrong(f"{count} messages were answered by {[answer.id for answer in answers]}")
        for answer in answers:
            if answer.HasField("error") and answer.error.code != Code.INVALID_ARGUMENT.value[0]:
                raise Wrong(f"a message was answered by {answer.error}")

    def left_stream(self):
        call = self.stub.StreamClassify(self.messages(1000), timeout=120)
        for _ in range(self.random.randrange(5)):
            next(call)
        call.cancel()
        for _ in call:
            pass


OK, BAD = {Code.OK}, {Code.INVALID_ARGUMENT}
KINDS = {  # share of the calls, and codes
    "right": (40, OK), "cut": (5, OK), "empty_text": (5, OK), "huge": (1, OK), "stream": (5, OK), "wrong": (12, BAD),
    "unknown_model": (3, {Code.NOT_FOUND}), "too_large": (.1, {Code.RESOURCE_EXHAUSTED}), "cancelled": (10, {Code.CANCELLED, Code.OK}),
    "expired": (8, {Code.DEADLINE_EXCEEDED, Code.OK}), "compressed": (2, {Code.UNIMPLEMENTED}), "not_utf8": (4, BAD),
    "garbage": (3, BAD), "left_stream": (2, {Code.CANCELLED})}


def retry_delay(error):
    """Seconds after which a full queue wants to be asked again; None if the error is another one."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin") if hasattr(error, "trailing_metadata") else None
    status = status_pb2.Status.FromString(details) if details else None
    for detail in status.details if status else ():
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            return retry.retry_delay.ToTimedelta().total_seconds()
    return None


class Tally:
    def __init__(self):
        self.lock = threading.Lock()
        self.codes = collections.defaultdict(collections.Counter)
        self.faults, self.refusals = [], 0

    def count(self, kind, code, fault):
        with self.lock:
            self.codes[kind][code.name] += 1
            if fault:
                self.faults.append(f"{kind}: {fault}")


def call(caller, kind, tally):
    codes = KINDS[kind][1]
    while True:
        try:
            code = getattr(caller, kind)() or Code.OK
            fault = None
        except grpc.RpcError as error:
            code, fault = error.code(), error.details()
            if code == Code.RESOURCE_EXHAUSTED and code not in codes and (delay := retry_delay(error)) is not None:
                with tally.lock:
                    tally.refusals += 1
                if kind != "expired":
                    time.sleep(delay)
                    continue
                code = Code.DEADLINE_EXCEEDED  # it could not have been answered in time
        except Wrong as wrong:
            tally.count(kind, Code.OK, str(wrong))
            return
        tally.count(kind, code, None if code in codes else f"{code.name} {fault}")
        return


def run(kinds, tally, seed):
    lock, left = threading.Lock(), iter(kinds)

    def work(number):
        caller = Caller(seed + number)
        while True:
            with lock:
                kind = next(left, None)
            if kind is None:
                break
            call(caller, kind, tally)
        caller.channel.close()

    callers = [threading.Thread(target=work, args=(i,)) for i in range(options.callers)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()


def usage():
    """Bytes resident, open files, threads of the server, once the connections are gone and it has tidied its heap, as it does every ten seconds."""
    time.sleep(12)
    resident = next(int(line.split()[1]) << 10 for line in open(f"/proc/{options.pid}/status") if line.startswith("VmRSS"))
    return resident, len(os.listdir(f"/proc/{options.pid}/fd")), len(os.listdir(f"/proc/{options.pid}/task"))


chosen = random.Random(options.seed).choices(list(KINDS), [share for share, _ in KINDS.values()], k=options.calls)
tally = Tally()
begin = time.monotonic()
warm = max(len(chosen) // 10, min(len(chosen) // 2, 1000))
run(chosen[:warm], tally, 1000)
before = usage()
run(chosen[warm:], tally, 2000)
after = usage()
grown = [b - a for a, b in zip(before, after)]
for kind, codes in sorted(tally.codes.items()):
    print(f"{kind}: {', '.join(f'{count} {code}' for code, count in sorted(codes.items()))}")
for fault in tally.faults[:20]:
    print("fault:", fault)
print(f"{len(chosen)} calls in {time.monotonic() - begin:.0f} s, {len(tally.faults)} not as expected, {tally.refusals} refused for a full queue and made again; "
      f"memory {grown[0] / 1e6:+.1f} MB, files {grown[1]:+d}, threads {grown[2]:+d}")
sys.exit(bool(tally.faults) or grown[0] > 32e6 or grown[1] > 4 or grown[2] > 4)
