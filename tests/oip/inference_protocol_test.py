"""Clients of the Open Inference Protocol against a real server: tritonclient as it comes from its
package, and a plain client made of nothing but proto/inference.

The server has `mood` (one task; two versions loaded) and `reviews` (the tasks counterfactual and
sentiment), as tests/verify/serving.bash makes them: python inference_protocol_test.py HOST:PORT
"""

import asyncio
import functools
import importlib.metadata
import os
import pathlib
import queue
import struct
import subprocess
import sys
import tempfile
import unittest

import grpc
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

SERVER = None  # host:port
ROOT = pathlib.Path(__file__).resolve().parents[2]
KINDS = ["label", "probability", "probabilities", "labels", "token_count", "truncated", "abstained"]
TEXTS = ["1日前に届いた机は最高です。", "壊れていました。", "普通です。"]


def tensor(texts, shape=None, name="text"):
    """The texts as tritonclient sends them: raw."""
    array = np.array([text.encode() if isinstance(text, str) else text for text in texts], dtype=np.object_)
    given = triton.InferInput(name, shape or [len(texts)], "BYTES")
    given.set_data_from_numpy(array.reshape(shape or [len(texts)]))
    return given


def typed(texts, model="mood", version=""):
    """A request with its texts as contents, by tritonclient's own messages."""
    request = service_pb2.ModelInferRequest(model_name=model, model_version=version)
    given = request.inputs.add(name="text", datatype="BYTES", shape=[len(texts)])
    given.contents.bytes_contents.extend(text.encode() for text in texts)
    return request


def tasuki(*command):
    subprocess.run(["tasuki", "--server", SERVER, *command], check=True, capture_output=True)


def strings(array):
    return [element.decode() for element in array.reshape(-1)]


class Case(unittest.TestCase):
    def setUp(self):
        self.client = triton.InferenceServerClient(SERVER)
        self.addCleanup(self.client.close)

    def infer(self, texts=TEXTS, model="mood", **more):
        return self.client.infer(model, [tensor(texts)], **more)

    def refused(self, code, text, call, *arguments, **more):
        with self.assertRaises(InferenceServerException) as caught:
            call(*arguments, **more)
        self.assertEqual(caught.exception.status(), f"StatusCode.{code}", str(caught.exception))
        self.assertIn(text, caught.exception.message())


class ServerTest(Case):
    def test_live(self):
        self.assertTrue(self.client.is_server_live())

    def test_ready(self):
        self.assertTrue(self.client.is_server_ready())

    def test_metadata(self):
        metadata = self.client.get_server_metadata(as_json=True)
        self.assertEqual(metadata["name"], "tasuki")
        self.assertEqual(sorted(metadata["extensions"]), metadata["extensions"])
        self.assertIn("classification", metadata["extensions"])

    def test_model_ready(self):
        self.assertTrue(self.client.is_model_ready("mood"))
        self.assertTrue(self.client.is_model_ready("mood", "1"))
        self.assertFalse(self.client.is_model_ready("mood", "99"))
        self.assertFalse(self.client.is_model_ready("base"))

    def test_model_metadata_of_one_task(self):
        metadata = self.client.get_model_metadata("mood", as_json=True)
        self.assertEqual(metadata["versions"], ["1", "2"])
        self.assertEqual(metadata["platform"], "tasuki_t5")
        self.assertEqual(metadata["inputs"], [{"name": "text", "datatype": "BYTES", "shape": ["-1"]}])
        self.assertEqual([each["name"] for each in metadata["outputs"]], KINDS)

    def test_model_metadata_of_two_tasks(self):
        metadata = self.client.get_model_metadata("reviews", as_json=True)
        self.assertEqual([each["name"] for each in metadata["outputs"]],
                         [f"{task}.{kind}" for task in ("counterfactual", "sentiment") for kind in KINDS])
        self.assertEqual(metadata["outputs"][9]["shape"], ["-1", "3"])

    def test_model_config(self):
        config = self.client.get_model_config("mood", as_json=True)["config"]
        self.assertEqual(config["name"], "mood")
        self.assertEqual(config["input"], [{"name": "text", "data_type": "TYPE_STRING", "dims": ["-1"]}])
        self.assertEqual([each["name"] for each in config["output"]], KINDS)

    def test_shared_memory_is_not_offered(self):
        self.refused("UNIMPLEMENTED", "not offered", self.client.register_system_shared_memory, "r", "/r", 8)
        self.refused("UNIMPLEMENTED", "not offered", self.client.get_cuda_shared_memory_status)

    def test_traces_and_log_settings_are_not_offered(self):
        self.refused("UNIMPLEMENTED", "not offered", self.client.get_trace_settings)
        self.refused("UNIMPLEMENTED", "not offered", self.client.get_log_settings)


class InferTest(Case):
    def test_every_output_has_its_type_and_shape(self):
        result = self.infer()
        for name, dtype, shape in [("label", np.object_, (3,)), ("probability", np.float32, (3,)),
                                   ("probabilities", np.float32, (3, 3)), ("labels", np.object_, (3,)),
                                   ("token_count", np.int32, (3,)), ("truncated", np.bool_, (3,)),
                                   ("abstained", np.bool_, (3,))]:
            array = result.as_numpy(name)
            self.assertEqual((array.dtype, array.shape), (dtype, shape), name)

    def test_the_label_is_the_most_probable(self):
        result = self.infer()
        probabilities, labels = result.as_numpy("probabilities"), strings(result.as_numpy("labels"))
        self.assertEqual(labels, ["negative", "neutral", "positive"])
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
        np.testing.assert_array_equal(probabilities.max(axis=1), result.as_numpy("probability"))
        self.assertEqual([labels[i] for i in probabilities.argmax(axis=1)], strings(result.as_numpy("label")))

    def test_a_column_of_texts(self):
        result = self.client.infer("mood", [tensor(TEXTS, [3, 1])])
        np.testing.assert_array_equal(result.as_numpy("probabilities"), self.infer().as_numpy("probabilities"))

    def test_typed_contents_are_answered_typed(self):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(self.client._channel)
        answer = stub.ModelInfer(typed(TEXTS))
        self.assertEqual(len(answer.raw_output_contents), 0)
        raw = self.infer()
        outputs = {each.name: each for each in answer.outputs}
        self.assertEqual([each.decode() for each in outputs["label"].contents.bytes_contents],
                         strings(raw.as_numpy("label")))
        np.testing.assert_array_equal(np.array(outputs["probabilities"].contents.fp32_contents, np.float32),
                                      raw.as_numpy("probabilities").reshape(-1))
        self.assertEqual(list(outputs["token_count"].contents.int_contents), raw.as_numpy("token_count").tolist())
        self.assertEqual(list(outputs["truncated"].contents.bool_contents), [False] * 3)

    def test_only_the_outputs_that_are_asked_for(self):
        wanted = [triton.InferRequestedOutput(name) for name in ("token_count", "label")]
        answer = self.infer(outputs=wanted).get_response()
        self.assertEqual([each.name for each in answer.outputs], ["token_count", "label"])

    def test_two_tasks_at_once(self):
        result = self.infer(model="reviews")
        self.assertEqual(len(result.get_response().outputs), 14)
        self.assertEqual(result.as_numpy("sentiment.probabilities").shape, (3, 3))
        self.assertEqual(result.as_numpy("counterfactual.probabilities").shape, (3, 2))

    def test_one_task_by_the_outputs_names(self):
        both = self.infer(model="reviews")
        one = self.infer(model="reviews", outputs=[triton.InferRequestedOutput("sentiment.probabilities")])
        np.testing.assert_array_equal(one.as_numpy("sentiment.probabilities"),
                                      both.as_numpy("sentiment.probabilities"))

    def test_one_task_by_parameter(self):
        both = self.infer(model="reviews")
        one = self.infer(model="reviews", parameters={"task": "sentiment"})
        self.assertEqual([each.name for each in one.get_response().outputs], KINDS)
        np.testing.assert_array_equal(one.as_numpy("probabilities"), both.as_numpy("sentiment.probabilities"))

    def test_classification(self):
        result = self.infer()
        best = self.infer(outputs=[triton.InferRequestedOutput("probabilities", class_count=1)])
        rows = best.as_numpy("probabilities")
        self.assertEqual(rows.shape, (3, 1))
        for row, label, probability in zip(strings(rows), strings(result.as_numpy("label")),
                                           result.as_numpy("probability")):
            value, index, name = row.split(":")
            self.assertEqual(name, label)
            self.assertEqual(strings(result.as_numpy("labels"))[int(index)], label)
            self.assertAlmostEqual(float(value), float(probability), places=5)

    def test_classification_of_more_labels_than_there_are(self):
        rows = self.infer(outputs=[triton.InferRequestedOutput("probabilities", class_count=9)]).as_numpy(
            "probabilities")
        self.assertEqual(rows.shape, (3, 3))
        values = [[float(each.split(b":")[0]) for each in row] for row in rows]
        self.assertEqual(values, [sorted(row, reverse=True) for row in values])

    def test_the_id_comes_back(self):
        self.assertEqual(self.infer(request_id="ab-12").get_response().id, "ab-12")

    def test_versions(self):
        first, second, newest = (self.infer(model_version=version) for version in ("1", "2", ""))
        self.assertEqual([each.get_response().model_version for each in (first, second, newest)], ["1", "2", "2"])
        self.assertFalse(np.array_equal(first.as_numpy("probabilities"), second.as_numpy("probabilities")))

    def test_an_alias_is_a_version(self):
        tasuki("alias", "set", "mood@production", "mood@1")
        try:
            first = self.infer(model_version="production")
            self.assertEqual(first.get_response().model_version, "1")
            np.testing.assert_array_equal(first.as_numpy("probabilities"),
                                          self.infer(model_version="1").as_numpy("probabilities"))
            tasuki("alias", "set", "mood@production", "mood@2")
            self.assertEqual(self.infer(model_version="production").get_response().model_version, "2")
            self.assertTrue(self.client.is_model_ready("mood", "production"))
            self.assertFalse(self.client.is_model_ready("mood", "staging"))
        finally:
            tasuki("alias", "delete", "mood@production")
            tasuki("model", "load", "mood@1")  # left by its alias, it was unloaded

    def test_truncation(self):
        text = [TEXTS[0] * 50 + TEXTS[1]]
        head, both = (self.infer(text, parameters={"truncation": which}) for which in ("HEAD", "HEAD_AND_TAIL"))
        self.assertTrue(both.as_numpy("truncated")[0])
        self.assertFalse(np.array_equal(head.as_numpy("probabilities"), both.as_numpy("probabilities")))
        self.refused("INVALID_ARGUMENT", "texts[0]", self.infer, text, parameters={"truncation": "ERROR"})

    def test_unicode(self):
        texts = ["か\u3099", "𠮷野家🍣", "ÅÅ", "\u200b", "تجربة"]
        result = self.infer(texts)
        alone = [self.infer([text]).as_numpy("probabilities")[0] for text in texts]
        np.testing.assert_array_equal(result.as_numpy("probabilities"), np.array(alone))

    def test_an_empty_text(self):
        result = self.infer(["", TEXTS[0]])
        self.assertEqual(result.as_numpy("token_count").tolist()[0], 1)
        np.testing.assert_array_equal(result.as_numpy("probabilities")[1], self.infer().as_numpy("probabilities")[0])

    def test_a_long_text_says_that_it_was_cut(self):
        result = self.infer([TEXTS[0] * 50, TEXTS[0]])
        self.assertEqual(result.as_numpy("truncated").tolist(), [True, False])
        self.assertGreater(result.as_numpy("token_count")[0], 64)

    def test_256_texts(self):
        result = self.infer([f"{i}日前です。" for i in range(256)])
        self.assertEqual(result.as_numpy("probabilities").shape, (256, 3))

    def test_priorities_do_not_change_answers(self):
        answers = [self.infer(priority=priority).as_numpy("probabilities") for priority in (0, 1, 2)]
        np.testing.assert_array_equal(answers[0], answers[1])
        np.testing.assert_array_equal(answers[0], answers[2])

    def test_a_timeout_that_is_long_enough(self):
        self.assertEqual(len(self.infer(timeout=60_000_000).as_numpy("label")), 3)

    def test_parameters_of_other_servers_do_not_matter(self):
        self.assertEqual(len(self.infer(parameters={"content_type": "str"}).as_numpy("label")), 3)


class RefusalTest(Case):
    def test_a_timeout_that_passes(self):
        self.refused("DEADLINE_EXCEEDED", "nothing was computed", self.infer, timeout=1)

    def test_a_deadline_that_passes(self):
        # So much that no machine is done within it: gRPC rounds a deadline up to the next millisecond or two.
        self.refused("DEADLINE_EXCEEDED", "", self.infer, ["とても良い商品でした。" * 200] * 256, client_timeout=1e-3)

    def test_257_texts(self):
        self.refused("INVALID_ARGUMENT", "257 texts; at most 256", self.infer, ["a"] * 257)

    def test_an_unknown_model(self):
        self.refused("NOT_FOUND", "models/nothing does not exist", self.infer, model="nothing")

    def test_an_unknown_version(self):
        self.refused("NOT_FOUND", "models/mood/versions/99", self.infer, model_version="99")

    def test_a_name_that_is_none(self):
        self.refused("INVALID_ARGUMENT", "model_name", self.infer, model="No Model")

    def test_a_base_model(self):
        self.refused("FAILED_PRECONDITION", "without a task", self.infer, model="base")

    def test_another_input(self):
        self.refused("INVALID_ARGUMENT", 'the one input is "text"', self.client.infer, "mood",
                     [tensor(TEXTS, name="texts")])

    def test_another_datatype(self):
        given = triton.InferInput("text", [1], "FP32")
        given.set_data_from_numpy(np.zeros(1, np.float32))
        self.refused("INVALID_ARGUMENT", 'inputs[0].datatype: "FP32"', self.client.infer, "mood", [given])

    def test_two_inputs(self):
        self.refused("INVALID_ARGUMENT", "has 2 tensors", self.client.infer, "mood", [tensor(TEXTS), tensor(TEXTS)])

    def test_another_shape(self):
        self.refused("INVALID_ARGUMENT", "[1, 3] is not [N] or [N, 1]", self.client.infer, "mood",
                     [tensor(TEXTS, [1, 3])])

    def test_another_output(self):
        self.refused("INVALID_ARGUMENT", "there are label, probability", self.infer,
                     outputs=[triton.InferRequestedOutput("logits")])

    def test_another_task(self):
        self.refused("INVALID_ARGUMENT", "it has counterfactual, sentiment", self.infer, model="reviews",
                     parameters={"task": "mood"})

    def test_a_classification_of_labels(self):
        self.refused("INVALID_ARGUMENT", "classification", self.infer,
                     outputs=[triton.InferRequestedOutput("label", class_count=1)])

    def test_a_sequence(self):
        self.refused("UNIMPLEMENTED", "no sequences", self.infer, sequence_id=7, sequence_start=True)

    def test_bytes_that_are_no_text(self):
        self.refused("INVALID_ARGUMENT", "texts[1]", self.infer, ["a", b"\xff\xfe"])

    def test_raw_bytes_that_lie_about_their_length(self):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(self.client._channel)
        for raw, text in [(struct.pack("<I", 9) + b"abc", "9 bytes; 3 are left"), (b"\xff" * 3, "before the length"),
                          (struct.pack("<I", 1) + b"ab", "1 bytes after the last")]:
            request = typed([])
            request.inputs[0].shape[0] = 1
            request.raw_input_contents.append(raw)
            with self.assertRaises(grpc.RpcError) as caught:
                stub.ModelInfer(request)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
            self.assertIn(text, caught.exception.details())

    def test_raw_and_typed_at_once(self):
        request = typed(["a"])
        request.raw_input_contents.append(struct.pack("<I", 1) + b"a")
        with self.assertRaises(grpc.RpcError) as caught:
            service_pb2_grpc.GRPCInferenceServiceStub(self.client._channel).ModelInfer(request)
        self.assertIn("beside raw_input_contents", caught.exception.details())


class ConcurrentTest(Case):
    def test_async(self):
        answers = queue.Queue()
        for i in range(32):
            self.client.async_infer("mood", [tensor([str(i)] * (i + 1))], request_id=str(i),
                                    callback=lambda result, error: answers.put((result, error)))
        seen = set()
        for _ in range(32):
            result, error = answers.get(timeout=60)
            self.assertIsNone(error)
            seen.add(result.get_response().id)
            self.assertEqual(len(result.as_numpy("label")), int(result.get_response().id) + 1)
        self.assertEqual(len(seen), 32)

    def test_async_error(self):
        answers = queue.Queue()
        self.client.async_infer("nothing", [tensor(TEXTS)], callback=lambda result, error: answers.put(error))
        self.assertIn("does not exist", answers.get(timeout=60).message())

    def test_asyncio(self):
        async def infer():
            async with triton_aio.InferenceServerClient(SERVER) as client:
                return await asyncio.gather(*(client.infer("mood", [tensor([text])]) for text in TEXTS))

        answers = [result.as_numpy("probabilities")[0] for result in asyncio.run(infer())]
        np.testing.assert_array_equal(np.array(answers), self.infer().as_numpy("probabilities"))

    def stream(self, requests):
        """The answers to (arguments of async_stream_infer) in the order in which they come."""
        answers = queue.Queue()
        self.client.start_stream(callback=lambda result, error: answers.put((result, error)))
        for request in requests:
            self.client.async_stream_infer(**request)
        got = [answers.get(timeout=60) for _ in requests]
        self.client.stop_stream()
        return got

    def test_stream_in_order(self):
        got = self.stream([{"model_name": "mood", "inputs": [tensor([str(i)] * (40 if i % 4 == 0 else 1))],
                            "request_id": str(i)} for i in range(40)])
        self.assertEqual([error for _, error in got], [None] * 40)
        self.assertEqual([result.get_response().id for result, _ in got], [str(i) for i in range(40)])
        self.assertEqual([len(result.as_numpy("label")) for result, _ in got],
                         [40 if i % 4 == 0 else 1 for i in range(40)])

    def test_stream_of_many_small_requests(self):
        texts = [f"{i}日前です。" for i in range(256)]
        got = self.stream([{"model_name": "mood", "inputs": [tensor([text])]} for text in texts])
        np.testing.assert_array_equal(np.concatenate([result.as_numpy("probabilities") for result, _ in got]),
                                      self.infer(texts).as_numpy("probabilities"))

    def test_stream_of_large_requests(self):
        texts = [TEXTS[i % 3] * 20 for i in range(256)]
        got = self.stream([{"model_name": "reviews", "inputs": [tensor(texts)]}] * 8)
        self.assertEqual([error for _, error in got], [None] * 8)  # a full queue is waited for

    def test_stream_goes_on_after_an_error(self):
        got = self.stream([{"model_name": name, "inputs": [tensor(TEXTS)]} for name in ("mood", "nothing", "mood")])
        self.assertIn("does not exist", got[1][1].message())
        self.assertIsNone(got[1][0])
        np.testing.assert_array_equal(got[2][0].as_numpy("probabilities"), got[0][0].as_numpy("probabilities"))

    def test_stream_of_two_models(self):
        got = self.stream([{"model_name": "reviews", "inputs": [tensor(TEXTS)], "parameters": {"task": "sentiment"}},
                           {"model_name": "mood", "inputs": [tensor(TEXTS)], "model_version": "1"}])
        self.assertEqual([result.get_response().model_name for result, _ in got], ["reviews", "mood"])

    def test_stream_says_which_answer_is_the_last(self):
        (result, error), = self.stream([{"model_name": "mood", "inputs": [tensor(TEXTS)],
                                         "enable_empty_final_response": True}])
        self.assertIsNone(error)
        self.assertTrue(result.get_response().parameters["triton_final_response"].bool_param)


class RepositoryTest(Case):
    def index(self):
        rows = self.client.get_model_repository_index(as_json=True)["models"]
        return {(row["name"], row["version"]): (row["state"], row.get("reason", "")) for row in rows}

    def test_index(self):
        index = self.index()
        self.assertEqual(index["mood", "1"], ("READY", ""))
        self.assertEqual(index["base", "1"][0], "UNAVAILABLE")
        self.assertIn("base model", index["base", "1"][1])

    def test_unload_and_load(self):
        self.client.unload_model("mood")
        try:
            self.assertFalse(self.client.is_model_ready("mood"))
            self.assertEqual(self.index()["mood", "2"], ("UNAVAILABLE", "unloaded"))
            self.refused("FAILED_PRECONDITION", "in service", self.infer)
            self.assertTrue(self.client.is_model_ready("reviews"))
        finally:
            self.client.load_model("mood")
        self.assertTrue(self.client.is_model_ready("mood", "2"))
        self.assertEqual(len(self.infer().as_numpy("label")), 3)
        self.assertFalse(self.client.is_model_ready("mood", "1"))
        tasuki("model", "load", "mood@1")

    def test_loading_what_is_not_there(self):
        self.refused("NOT_FOUND", "models/nothing", self.client.load_model, "nothing")
        self.refused("NOT_FOUND", "models/nothing", self.client.unload_model, "nothing")

    def test_loading_with_another_configuration(self):
        self.refused("UNIMPLEMENTED", '"config"', self.client.load_model, "mood", config="{}")

    def statistics(self, **which):
        stats = self.client.get_inference_statistics(**which).model_stats
        return {(each.name, each.version): each for each in stats}

    def test_statistics_count(self):
        # Of version 1: a call that another test gave up may still be on its way to version 2.
        before = self.statistics(model_name="mood", model_version="1")["mood", "1"]
        self.infer(model_version="1")
        with self.assertRaises(InferenceServerException):
            self.infer(model_version="1", timeout=1)
        after = self.statistics(model_name="mood", model_version="1")["mood", "1"]
        self.assertEqual(after.inference_count - before.inference_count, 3)
        self.assertEqual(after.inference_stats.success.count - before.inference_stats.success.count, 1)
        self.assertEqual(after.inference_stats.fail.count - before.inference_stats.fail.count, 1)
        self.assertGreater(after.execution_count, before.execution_count)
        self.assertGreater(after.inference_stats.compute_infer.ns, before.inference_stats.compute_infer.ns)
        self.assertGreater(after.last_inference, 1_600_000_000_000)

    def test_statistics_of_all_models(self):
        self.assertEqual(sorted(self.statistics()), [("mood", "1"), ("mood", "2"), ("reviews", "1")])
        self.assertEqual(sorted(self.statistics(model_name="mood")), [("mood", "1"), ("mood", "2")])
        self.refused("NOT_FOUND", "nothing", self.client.get_inference_statistics, "nothing")


@functools.cache
def own_file():
    """proto/inference as protoc understands it."""
    with tempfile.TemporaryDirectory() as directory:
        out = os.path.join(directory, "set")
        subprocess.run(["protoc", f"-I{ROOT / 'proto'}", f"--descriptor_set_out={out}",
                        "inference/inference.proto"], check=True)
        (file,) = descriptor_pb2.FileDescriptorSet.FromString(pathlib.Path(out).read_bytes()).file
    return file


class PlainClientTest(unittest.TestCase):
    """Messages from our proto text, and gRPC: nothing of tritonclient."""

    def setUp(self):
        self.channel = grpc.insecure_channel(SERVER)
        self.addCleanup(self.channel.close)
        self.pool = descriptor_pool.DescriptorPool()
        self.pool.Add(own_file())

    def message(self, name, /, **fields):
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(f"inference.{name}"))(**fields)

    def call(self, method, /, **fields):
        answer = type(self.message(f"{method}Response"))
        return self.channel.unary_unary(f"/inference.GRPCInferenceService/{method}",
                                        request_serializer=lambda request: request.SerializeToString(),
                                        response_deserializer=answer.FromString)(
                                            self.message(f"{method}Request", **fields), timeout=60)

    def test_server(self):
        self.assertTrue(self.call("ServerLive").live)
        self.assertTrue(self.call("ServerReady").ready)
        self.assertTrue(self.call("ModelReady", name="mood").ready)
        self.assertEqual(self.call("ModelMetadata", name="mood").inputs[0].datatype, "BYTES")

    def infer(self, **more):
        contents = {"bytes_contents": [text.encode() for text in TEXTS]}
        given = {"name": "text", "datatype": "BYTES", "shape": [3], "contents": contents}
        return self.call("ModelInfer", model_name="mood", inputs=[given], **more)

    def test_infer(self):
        answer = self.infer(id="7")
        self.assertEqual((answer.id, answer.model_name, answer.model_version), ("7", "mood", "2"))
        label, probability, probabilities = answer.outputs[:3]
        self.assertEqual(len(label.contents.bytes_contents), 3)
        self.assertEqual(list(probabilities.shape), [3, 3])
        for i, each in enumerate(probability.contents.fp32_contents):
            self.assertEqual(max(probabilities.contents.fp32_contents[3 * i:3 * i + 3]), each)

    def test_classification(self):
        parameter = self.message("InferParameter", int64_param=2)
        wanted = {"name": "probabilities", "parameters": {"classification": parameter}}
        (output,) = self.infer(outputs=[wanted]).outputs
        self.assertEqual((output.datatype, list(output.shape)), ("BYTES", [3, 2]))
        self.assertEqual(len(output.contents.bytes_contents), 6)

    def test_load_in_the_dialect_of_kserve(self):
        answer = self.call("RepositoryModelLoad", repository_name="reviews")  # field 1 is its model_name
        self.assertEqual((answer.model_name, answer.is_loaded), ("reviews", True))


class WireFactsTest(unittest.TestCase):
    """Names, numbers and types of our proto text are those that tritonclient was made from."""

    OURS = {"RepositoryModelLoadResponse": {"model_name", "is_loaded"},
            "RepositoryModelUnloadResponse": {"model_name", "is_unloaded"}}

    def compare(self, ours, theirs):
        fields = {field.name: field for field in theirs.field}
        for field in ours.field:
            if field.name in self.OURS.get(ours.name, ()):
                continue
            other = fields[field.name]
            self.assertEqual((field.number, field.type, field.label, field.type_name.split(".")[-1]),
                             (other.number, other.type, other.label, other.type_name.split(".")[-1]),
                             f"{ours.name}.{field.name}")
            self.count += 1
        nested = {each.name: each for each in theirs.nested_type}
        for each in ours.nested_type:
            self.compare(each, nested[each.name])

    def test_messages(self):
        self.count = 0
        theirs, enums = {}, {}
        for module in (service_pb2, triton.model_config_pb2):
            file = descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
            theirs.update({each.name: each for each in file.message_type})
            enums.update({each.name: each for each in file.enum_type})
        for message in own_file().message_type:
            if message.name != "NotOffered":
                self.compare(message, theirs[message.name])
        for enum in own_file().enum_type:
            values = {value.name: value.number for value in enums[enum.name].value}
            for value in enum.value:
                self.assertEqual(value.number, values[value.name])
        self.assertGreater(self.count, 100)

    def test_methods(self):
        file = descriptor_pb2.FileDescriptorProto.FromString(service_pb2.DESCRIPTOR.serialized_pb)
        (ours,), (theirs,) = own_file().service, file.service
        self.assertEqual((own_file().package, ours.name), (file.package, theirs.name))
        flows = lambda service: {each.name: (each.client_streaming, each.server_streaming) for each in service.method}
        self.assertEqual(flows(ours), flows(theirs))


if __name__ == "__main__":
    SERVER = sys.argv.pop(1)
    result = unittest.main(exit=False).result
    passed = result.testsRun - len(result.failures) - len(result.errors) - len(result.skipped)
    print(f"tritonclient {importlib.metadata.version('tritonclient')} and a plain client: {passed} checks passed, "
          f"{result.testsRun - passed} not")
    sys.exit(not result.wasSuccessful())
