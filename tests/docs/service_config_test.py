"""client/service_config.json: names every method once, and gRPC does by it what docs/clients.md says.

Wants grpcio, grpcio-tools and googleapis-common-protos.
"""

import concurrent.futures
import importlib.resources
import json
import sys
import tempfile
import unittest
from pathlib import Path

import grpc
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "client" / "service_config.json").read_text(encoding="utf-8")
CONFIG = json.loads(TEXT)
# Calls that last as long as their caller likes, and what is not offered.
UNNAMED = {
    "tasuki.v1.ClassificationService/StreamClassify", "tasuki.v1.TrainingService/WatchTrainingJob",
    "inference.GRPCInferenceService/ModelStreamInfer", "grpc.health.v1.Health/Watch",
}


def methods():
    """Name and descriptor of each method that is served."""
    packages = Path(str(importlib.resources.files("google") / "rpc")).parents[1]
    with tempfile.TemporaryDirectory() as directory:
        files = [str(path.relative_to(ROOT / "proto")) for path in sorted((ROOT / "proto").rglob("*.proto"))]
        if protoc.main(["", f"-I{ROOT}/proto", f"-I{packages}", f"-I{Path(protoc.__file__).parent}/_proto",
                        f"-o{directory}/set", *files]):
            sys.exit("protoc failed")
        parsed = descriptor_pb2.FileDescriptorSet.FromString((Path(directory) / "set").read_bytes())
    for file in parsed.file:
        for service in file.service:
            for method in service.method:
                if not method.input_type.endswith(".NotOffered"):
                    yield f"{file.package}.{service.name}/{method.name}", method


class Server(grpc.GenericRpcHandler):
    """Ends the first `failures` calls of every method with a code, and answers those after them with nothing."""

    def __init__(self, code, failures):
        self.code, self.left, self.calls, self.watched = code, failures, [], False
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), handlers=[self])
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def service(self, details):
        if details.method == "/grpc.health.v1.Health/Watch":
            self.watched = True
            return None  # whoever has no health service is taken for healthy
        self.calls.append(details.method)
        return grpc.stream_stream_rpc_method_handler(self.answer)

    def answer(self, requests, context):
        self.left -= 1
        if self.left >= 0:
            context.abort(self.code, "scripted")
        yield b""


class ServiceConfigTest(unittest.TestCase):
    def test_every_method_is_named_once(self):
        named = [f"{name['service']}/{name['method']}" for group in CONFIG["methodConfig"] for name in group["name"]]
        self.assertEqual(sorted(named), sorted({name for name, _ in methods()} - UNNAMED))

    def test_only_what_changes_nothing_is_repeated(self):
        repeated = [name for group in CONFIG["methodConfig"] if "retryPolicy" in group for name in group["name"]]
        for name in repeated:
            self.assertRegex(name["method"], "^(Get|List|Classify$|Check$|Server|ModelInfer$|ModelReady$|ModelMetadata$|ModelConfig$|ModelStatistics$|RepositoryIndex$)")
        self.assertGreater(len(repeated), 20)
        streams = {name for name, method in methods() if method.client_streaming or method.server_streaming}
        self.assertFalse(streams & {f"{name['service']}/{name['method']}" for name in repeated})

    def call(self, method, code, failures):
        """The code that a call ends with, and how many attempts it took."""
        server = Server(code, failures)
        self.addCleanup(server.server.stop, None)
        with grpc.insecure_channel(server.address, [("grpc.service_config", TEXT)]) as channel:
            try:
                channel.unary_unary(method)(b"", timeout=150)
                ended = grpc.StatusCode.OK
            except grpc.RpcError as error:
                ended = error.code()
        self.assertTrue(server.watched, "nobody asked for the server's health")
        return ended, len(server.calls)

    def test_unavailable_is_repeated(self):
        for method in ("tasuki.v1.ClassificationService/Classify", "tasuki.v1.TrainingService/GetTrainingJob",
                       "inference.GRPCInferenceService/ModelInfer"):
            self.assertEqual(self.call(f"/{method}", grpc.StatusCode.UNAVAILABLE, 2), (grpc.StatusCode.OK, 3), method)

    def test_four_attempts_are_made_at_most(self):
        self.assertEqual(self.call("/tasuki.v1.ClassificationService/Classify", grpc.StatusCode.UNAVAILABLE, 9),
                         (grpc.StatusCode.UNAVAILABLE, 4))

    def test_a_full_queue_is_not_asked_again(self):
        self.assertEqual(self.call("/tasuki.v1.ClassificationService/Classify", grpc.StatusCode.RESOURCE_EXHAUSTED, 1),
                         (grpc.StatusCode.RESOURCE_EXHAUSTED, 1))

    def test_what_changes_something_is_not_repeated(self):
        for method in ("TrainingService/CreateTrainingJob", "ModelService/RollbackModelAlias", "ModelService/DeleteModelVersion"):
            self.assertEqual(self.call(f"/tasuki.v1.{method}", grpc.StatusCode.UNAVAILABLE, 1), (grpc.StatusCode.UNAVAILABLE, 1), method)

    def test_many_failures_end_the_repeating(self):
        server = Server(grpc.StatusCode.UNAVAILABLE, 99)
        self.addCleanup(server.server.stop, None)
        with grpc.insecure_channel(server.address, [("grpc.service_config", TEXT)]) as channel:
            for _ in range(8):
                with self.assertRaises(grpc.RpcError):
                    channel.unary_unary("/tasuki.v1.ClassificationService/Classify")(b"", timeout=150)
        self.assertLess(len(server.calls), 8 * 2)  # 4 + 8 - 1, where each alone would have had 4


if __name__ == "__main__":
    unittest.main()
