"""The Python client against a server that does what a test wants: attempts, deadlines, metadata, TLS, streams."""

import asyncio
import functools
import hashlib
import io
import itertools
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import unittest.mock
from pathlib import Path

import grpc
import tasuki
from fake_server import Aio, Blocking, FakeServer, ServerError, fail
from grpc import StatusCode
from tasuki import v1

QUICK = tasuki.Retries(first_backoff=0.01, max_backoff=0.02)
DATASET = v1.Dataset(name="datasets/d-1")


def errors_then(answer, *errors):
    """A script whose first calls end with `errors`."""

    def script(call, request, context):
        if call <= len(errors):
            raise errors[call - 1]
        return answer

    return script


def unavailable(reason="STORE_UNAVAILABLE"):
    return ServerError(StatusCode.UNAVAILABLE, reason, retry_after=0.01)


class Connection:
    def setUp(self):
        super().setUp()
        self.server = FakeServer()
        self.addCleanup(self.server.stop)
        self.client = self.connect(self.server.address, retries=QUICK)

    def directory(self):
        kept = tempfile.TemporaryDirectory()
        self.addCleanup(kept.cleanup)
        return Path(kept.name)

    # ---- Errors ----
    def test_an_error_has_all_that_the_server_said(self):
        faults = {"name": "is not of the form", "tasks[1].weight": "is negative"}
        self.server.scripts["GetDataset"] = errors_then(
            DATASET, ServerError(StatusCode.INVALID_ARGUMENT, "FIELD_INVALID", faults=faults)
        )
        with self.assertRaises(tasuki.InvalidArgument) as caught:
            self.client.datasets.get("d-1")
        error = caught.exception
        self.assertEqual(error.code, StatusCode.INVALID_ARGUMENT)
        self.assertEqual(error.reason, "FIELD_INVALID")
        self.assertEqual(error.info, {"resource": "datasets/d-1"})
        self.assertEqual([(fault.field, fault.description) for fault in error.field_faults], list(faults.items()))
        self.assertIsNone(error.retry_delay)
        self.assertEqual(error.method, "/tasuki.v1.DatasetService/GetDataset")
        self.assertEqual(error.metadata, {"served-by": "fake"})
        self.assertEqual(str(error), "INVALID_ARGUMENT (FIELD_INVALID): scripted FIELD_INVALID")
        again = pickle.loads(pickle.dumps(error))
        self.assertEqual((type(again), str(again), again.field_faults), (type(error), str(error), error.field_faults))

    def test_every_code_has_its_class(self):
        for code in StatusCode:
            if code in (StatusCode.OK, StatusCode.CANCELLED):
                continue
            self.server.scripts["GetDataset"] = errors_then(DATASET, *[ServerError(code)] * 99)
            self.server.calls.clear()
            with self.assertRaises(tasuki.Error) as caught:
                self.client.with_options(retries=tasuki.Retries(1)).datasets.get("d-1")
            self.assertEqual(caught.exception.code, code)
            self.assertEqual(type(caught.exception).__name__.upper(), code.name.replace("_", ""))

    def test_a_reason_that_is_newer_than_the_client_is_kept(self):
        self.server.scripts["GetDataset"] = errors_then(DATASET, ServerError(StatusCode.NOT_FOUND, "OF_TOMORROW"))
        with self.assertRaises(tasuki.NotFound) as caught:
            self.client.datasets.get("d-1")
        self.assertEqual(caught.exception.reason, "OF_TOMORROW")

    # ---- Attempts ----
    def test_what_is_unavailable_is_asked_again(self):
        self.server.scripts["GetDataset"] = errors_then(DATASET, unavailable(), unavailable())
        self.assertEqual(self.client.datasets.get("d-1").name, "datasets/d-1")
        self.assertEqual(self.server.calls["GetDataset"], 3)

    def test_attempts_end_after_five(self):
        self.server.scripts["GetDataset"] = errors_then(DATASET, *[unavailable()] * 9)
        with self.assertRaises(tasuki.Unavailable) as caught:
            self.client.datasets.get("d-1")
        self.assertEqual(caught.exception.reason, "STORE_UNAVAILABLE")
        self.assertEqual(self.server.calls["GetDataset"], 5)

    def test_exhaustion_is_asked_again_only_if_the_server_says_when(self):
        full = ServerError(StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_after=0.02)
        self.server.scripts["GetDataset"] = errors_then(DATASET, full)
        self.client.datasets.get("d-1")
        self.assertEqual(self.server.calls["GetDataset"], 2)
        self.server.scripts["GetModel"] = errors_then(v1.Model(), ServerError(StatusCode.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY"))
        with self.assertRaises(tasuki.ResourceExhausted):
            self.client.models.get("m")
        self.assertEqual(self.server.calls["GetModel"], 1)

    def test_the_time_that_the_server_names_is_waited(self):
        self.server.scripts["GetDataset"] = errors_then(
            DATASET, ServerError(StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_after=0.4)
        )
        begin = time.monotonic()
        self.client.datasets.get("d-1")
        self.assertGreater(time.monotonic() - begin, 0.2)  # 0.4 s give or take a half

    def test_no_attempt_is_made_that_could_not_begin_in_time(self):
        self.server.scripts["GetDataset"] = errors_then(DATASET, ServerError(StatusCode.UNAVAILABLE, "DRAINING", retry_after=30))
        begin = time.monotonic()
        with self.assertRaises(tasuki.Unavailable):
            self.client.datasets.get("d-1", timeout=5)
        self.assertLess(time.monotonic() - begin, 3)

    def test_other_errors_are_not_asked_again(self):
        for code in (StatusCode.INTERNAL, StatusCode.ABORTED, StatusCode.DATA_LOSS, StatusCode.DEADLINE_EXCEEDED):
            self.server.calls.clear()
            self.server.scripts["GetDataset"] = errors_then(DATASET, ServerError(code))
            with self.assertRaises(tasuki.Error):
                self.client.datasets.get("d-1")
            self.assertEqual(self.server.calls["GetDataset"], 1, code)

    def test_a_call_that_the_server_broke_off_is_asked_again(self):
        self.server.scripts["GetDataset"] = errors_then(DATASET, ServerError(StatusCode.CANCELLED))
        self.assertEqual(self.client.datasets.get("d-1").name, "datasets/d-1")
        self.server.scripts["GetModel"] = errors_then(v1.Model(), *[ServerError(StatusCode.CANCELLED)] * 9)
        with self.assertRaises(tasuki.Unavailable):
            self.client.models.get("m")

    def test_a_deletion_that_was_done_by_a_lost_attempt_is_well(self):
        gone = ServerError(StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")
        self.server.scripts["DeleteDataset"] = errors_then(DATASET, unavailable(), gone)
        self.client.datasets.delete("d-1")
        self.server.scripts["DeleteTrainingJob"] = errors_then(DATASET, gone)
        with self.assertRaises(tasuki.NotFound):
            self.client.jobs.delete("j")

    def test_a_repeated_creation_has_the_same_request_id(self):
        seen = []

        def create(call, request, context):
            seen.append((request.request_id, request.training_job.model))
            if call == 1:
                raise unavailable()
            return v1.TrainingJob(name="trainingJobs/j")

        self.server.scripts["CreateTrainingJob"] = create
        self.client.jobs.create({"model": "m"})
        self.client.jobs.create({"model": "m"})
        self.assertEqual(seen[0], seen[1])
        self.assertNotEqual(seen[1], seen[2])
        self.assertEqual(seen[0][1], "models/m")

    def test_nobody_at_the_address(self):
        self.server.stop()
        client = self.connect(self.server.address, retries=tasuki.Retries(2, 0.01, 0.01))
        with self.assertRaisesRegex(tasuki.Unavailable, f"no Tasuki server answers at {self.server.address}"):
            client.server_info()

    # ---- Deadlines and cancelling ----
    def test_a_deadline_is_kept_and_the_server_is_told(self):
        self.server.scripts["GetDataset"] = self.server.hang
        begin = time.monotonic()
        with self.assertRaises(tasuki.DeadlineExceeded):
            self.client.datasets.get("d-1", timeout=1)
        self.assertLess(time.monotonic() - begin, 10)
        self.assertLess(self.server.left["GetDataset"][0], 2)
        self.assertTrue(self.server.cancelled.wait(10))

    def test_deadlines_by_default(self):
        self.server.scripts["GetDataset"] = errors_then(DATASET)
        self.server.scripts["Classify"] = errors_then(v1.ClassifyResponse(results=[v1.TextPredictions()]))
        self.server.scripts["LoadModelVersion"] = errors_then(v1.ModelVersion())
        self.client.datasets.get("d-1")
        self.client.classify("x", model="m")
        self.client.models.load("m")
        for method, seconds in (("GetDataset", 30), ("Classify", 60), ("LoadModelVersion", 600)):
            self.assertAlmostEqual(self.server.left[method][0], seconds, delta=5)
        mine = self.connect(self.server.address, timeout=7)
        mine.datasets.get("d-1")
        mine.with_options(timeout=tasuki.Timeouts(ordinary=9)).datasets.get("d-1")
        self.assertAlmostEqual(self.server.left["GetDataset"][1], 7, delta=2)
        self.assertAlmostEqual(self.server.left["GetDataset"][2], 9, delta=1.5)

    def test_a_watch_that_is_left_is_cancelled(self):
        def watch(call, request, context):
            context.add_callback(self.server.cancelled.set)  # the call has ended
            yield v1.WatchTrainingJobResponse(event=v1.TrainingJobEvent(sequence=1))
            self.server.hang(call, request, context)

        self.server.scripts["WatchTrainingJob"] = watch
        events = self.client.jobs.watch("j")
        self.assertEqual(next(events).sequence, 1)
        events.close()
        self.assertTrue(self.server.cancelled.wait(10))

    def test_a_closed_client_says_so(self):
        client = self.connect(self.server.address)
        client.close()
        for call in (
            lambda: client.datasets.get("d-1"),
            lambda: client.datasets.upload([]),
            lambda: list(client.jobs.watch("j")),
        ):
            with self.assertRaisesRegex(tasuki.Cancelled, "the client was closed"):
                call()
        client.close()

    # ---- Metadata ----
    def test_metadata_goes_with_every_call(self):
        self.server.scripts["GetDataset"] = errors_then(DATASET)
        traces = iter(["00-1", "00-2"])
        client = self.connect(self.server.address, token="secret", traceparent=lambda: next(traces), metadata={"X-Tenant": "a"})
        client.datasets.get("d-1")
        client.datasets.get("d-1")
        client.with_options(traceparent="00-mine", metadata={"x-more": "b"}).datasets.get("d-1")
        seen = self.server.metadata["GetDataset"]
        self.assertEqual([each["traceparent"] for each in seen], ["00-1", "00-2", "00-mine"])
        self.assertTrue(all(each["authorization"] == "Bearer secret" and each["x-tenant"] == "a" for each in seen))
        self.assertEqual([each.get("x-more") for each in seen], [None, None, "b"])
        self.assertTrue(seen[0]["user-agent"].startswith(f"tasuki-python/{tasuki.__version__}"))

    def test_a_token_may_be_renewed(self):
        self.server.scripts["GetDataset"] = errors_then(DATASET, unavailable())
        tokens = iter(["old", "new"])
        self.connect(self.server.address, token=lambda: next(tokens), retries=QUICK).datasets.get("d-1")
        self.assertEqual([each["authorization"] for each in self.server.metadata["GetDataset"]], ["Bearer old", "Bearer new"])

    def test_a_token_does_not_go_in_the_clear(self):
        for target in ("example.org:443", "192.0.2.1:8500", "[2001:db8::1]:8500"):
            with self.assertRaisesRegex(ValueError, "in the clear"):
                self.connect(target, token="secret")
            self.connect(target, token="secret", allow_insecure_token=True)
            self.connect(target, token="secret", tls=True)
        for target in ("localhost:8500", "127.0.0.2:8500", "[::1]:8500", "unix:/tmp/tasuki.sock"):
            self.connect(target, token="secret")

    def test_addresses(self):
        for target in ("nowhere", "host:", "host:0", "host:99999", ":8500", "host:port"):
            with self.assertRaisesRegex(ValueError, "HOST:PORT"):
                self.connect(target)

    def test_a_socket_of_this_machine(self):
        path = self.directory() / "socket"
        server = FakeServer(address=f"unix:{path}")
        self.addCleanup(server.stop)
        server.scripts["GetDataset"] = errors_then(DATASET)
        self.assertEqual(self.connect(f"unix:{path}").datasets.get("d-1").name, "datasets/d-1")

    # ---- TLS ----
    def test_tls(self):
        made = certificates()
        server = FakeServer(grpc.ssl_server_credentials([(made["server.key"].read_bytes(), made["server.pem"].read_bytes())]))
        self.addCleanup(server.stop)
        server.scripts["GetDataset"] = errors_then(DATASET)
        roots = made["authority.pem"]
        # The certificate is that of "tasuki.test".
        trusting = tasuki.TLS(root_certificates=roots, server_name="tasuki.test")
        client = self.connect(server.address, tls=trusting, token="secret")
        self.assertEqual(client.datasets.get("d-1").name, "datasets/d-1")
        self.assertEqual(server.metadata["GetDataset"][0]["authorization"], "Bearer secret")
        for tls, fault in (
            (True, "the server's certificate is not signed by the CA that was given"),
            (tasuki.TLS(root_certificates=roots.read_bytes()), "the server's certificate is for another name than 127.0.0.1"),
            (False, "the server wants TLS"),
        ):
            with self.assertRaisesRegex(tasuki.FailedPrecondition, f"server at {server.address}: {fault}"):
                self.connect(server.address, tls=tls).datasets.get("d-1", timeout=10)
            with self.assertRaisesRegex(tasuki.FailedPrecondition, fault):
                list(self.connect(server.address, tls=tls).jobs.watch("j"))
            with self.assertRaisesRegex(tasuki.FailedPrecondition, fault):
                list(self.connect(server.address, tls=tls).stream_classify(["x"], model="m"))
        with self.assertRaisesRegex(tasuki.FailedPrecondition, "the server does not speak TLS"):
            self.connect(self.server.address, tls=trusting).datasets.get("d-1", timeout=10)

    def test_what_is_not_given_comes_from_the_environment(self):
        made = certificates()
        server = FakeServer(grpc.ssl_server_credentials([(made["server.key"].read_bytes(), made["server.pem"].read_bytes())]))
        self.addCleanup(server.stop)
        server.scripts["GetDataset"] = errors_then(DATASET)
        file = self.directory() / "token"
        file.write_text("from-file\n")
        given = {"TASUKI_SERVER": server.address, "TASUKI_TLS_CA": str(made["authority.pem"]), "TASUKI_TOKEN": "secret"}
        with unittest.mock.patch.dict(os.environ, given):
            # The certificate is that of "tasuki.test", so that TLS is all that can be seen of it.
            with self.assertRaisesRegex(tasuki.FailedPrecondition, f"{server.address}: the server's certificate is for another"):
                self.connect(None).datasets.get("d-1")
            named = tasuki.TLS(root_certificates=made["authority.pem"], server_name="tasuki.test")
            self.connect(None, tls=named).datasets.get("d-1")
            self.connect(None, tls=named, token="mine").datasets.get("d-1")
            with unittest.mock.patch.dict(os.environ, {"TASUKI_TOKEN_FILE": str(file)}):
                self.connect(None, tls=named).datasets.get("d-1")
            with self.assertRaisesRegex(tasuki.FailedPrecondition, "the server wants TLS"):
                self.connect(None, tls=False).datasets.get("d-1")
        seen = [each["authorization"] for each in server.metadata["GetDataset"]]
        self.assertEqual(seen, ["Bearer secret", "Bearer mine", "Bearer from-file"])

    def test_mutual_tls(self):
        made = certificates()
        credentials = grpc.ssl_server_credentials(
            [(made["server.key"].read_bytes(), made["server.pem"].read_bytes())],
            made["authority.pem"].read_bytes(),
            require_client_auth=True,
        )
        server = FakeServer(credentials)
        self.addCleanup(server.stop)
        server.scripts["GetDataset"] = lambda call, request, context: v1.Dataset(
            display_name=context.auth_context()["x509_common_name"][0].decode()
        )
        known = {"root_certificates": made["authority.pem"], "server_name": "tasuki.test"}
        tls = tasuki.TLS(**known, client_certificate=made["client.pem"], client_key=made["client.key"])
        self.assertEqual(self.connect(server.address, tls=tls).datasets.get("d-1").display_name, "somebody")
        with self.assertRaisesRegex(tasuki.FailedPrecondition, "the server wants a certificate of this client"):
            self.connect(server.address, tls=tasuki.TLS(**known)).datasets.get("d-1", timeout=10)
        stranger = tasuki.TLS(**known, client_certificate=made["stranger.pem"], client_key=made["stranger.key"])
        with self.assertRaisesRegex(tasuki.FailedPrecondition, "the server does not take the certificate of this client"):
            self.connect(server.address, tls=stranger).datasets.get("d-1", timeout=10)
        with self.assertRaisesRegex(ValueError, "both"):
            self.connect(server.address, tls=tasuki.TLS(**known, client_key=made["client.key"]))
        with self.assertRaises(FileNotFoundError):
            self.connect(server.address, tls=tasuki.TLS(root_certificates="/nowhere/roots.pem"))

    # ---- Lists ----
    def test_lists_follow_pages(self):
        sizes = []

        def pages(call, request, context):
            sizes.append(request.page_size)
            begin = int(request.page_token or 0)
            rows = [v1.Dataset(name=f"datasets/d-{i}") for i in range(begin, min(begin + 2, 5))]
            return v1.ListDatasetsResponse(datasets=rows, next_page_token=str(begin + 2) if begin + 2 < 5 else "")

        self.server.scripts["ListDatasets"] = pages
        self.assertEqual([row.name for row in self.client.datasets.list()], [f"datasets/d-{i}" for i in range(5)])
        self.assertEqual(sizes, [1000, 1000, 1000])
        self.assertEqual(len(list(self.client.datasets.list(limit=3))), 3)
        self.assertEqual(sizes[3:], [3, 1])
        self.assertEqual(list(self.client.datasets.list(limit=0)), [])
        next(self.client.datasets.list())
        self.assertEqual(self.server.calls["ListDatasets"], 6)  # the next page is asked for when it is wanted

    # ---- Classify ----
    def classify_as(self, most=256):
        """A script that answers each text with itself, `most` at once."""
        self.sizes = []

        def classify(call, request, context):
            if len(request.texts) > most:
                raise ServerError(StatusCode.INVALID_ARGUMENT, "LIMIT_EXCEEDED")
            self.sizes.append(len(request.texts))
            self.models.append(request.model)
            results = [v1.TextPredictions(predictions=[v1.Prediction(task="t", label=text)]) for text in request.texts]
            return v1.ClassifyResponse(model_version="models/m/versions/7", results=results)

        self.models = []
        self.server.scripts["Classify"] = classify

    def test_many_texts_go_in_several_calls_and_keep_their_order(self):
        self.classify_as()
        texts = [f"text {i}" for i in range(1000)]
        told = []
        answers = self.client.classify(texts, model="m", progress=lambda done, total: told.append((done, total)))
        self.assertEqual([answer.label for answer in answers], texts)
        self.assertEqual([answer.text for answer in answers], texts)
        self.assertEqual(self.sizes, [256, 256, 256, 232])
        self.assertEqual(told, [(256, 1000), (512, 1000), (768, 1000), (1000, 1000)])
        # The version that answered first answers all.
        self.assertEqual(self.models, ["models/m"] + ["models/m/versions/7"] * 3)
        self.assertEqual(dict(self.server.calls), {"StreamClassify": 1, "Classify": 4})

    def test_few_texts_are_one_call_that_goes_first(self):
        seen = []

        def classify(call, request, context):
            seen.append((request.priority, context.time_remaining() < 100))
            return v1.ClassifyResponse(results=[v1.TextPredictions() for _ in request.texts])

        self.server.scripts["Classify"] = classify
        self.assertEqual(len(self.client.classify(["x"] * 256, model="m")), 256)
        self.assertEqual(dict(self.server.calls), {"Classify": 1})
        # What a stream does not say is BULK.
        self.assertEqual([each.text for each in self.client.stream_classify(["x"], model="m")], ["x"])
        self.assertEqual(self.server.calls["StreamClassify"], 1)
        self.assertEqual(seen, [(v1.ClassifyRequest.PRIORITY_UNSPECIFIED, True), (v1.ClassifyRequest.PRIORITY_UNSPECIFIED, False)])

    def test_no_texts_at_all_are_checked_as_well(self):
        self.server.scripts["Classify"] = errors_then(
            v1.ClassifyResponse(), ServerError(StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND"), ServerError(StatusCode.NOT_FOUND)
        )
        with self.assertRaises(tasuki.NotFound):
            self.client.classify([], model="m")
        with self.assertRaises(tasuki.NotFound):
            list(self.client.stream_classify([], model="m"))
        self.assertEqual(list(self.client.stream_classify([], model="m")), [])

    def test_classifying_goes_on_when_the_version_that_answered_is_taken_out_of_service(self):
        self.classify_as()
        answer = self.server.scripts["Classify"]

        def moved(call, request, context):
            if call > 2 and request.model == "models/m/versions/7":
                raise ServerError(StatusCode.FAILED_PRECONDITION, "MODEL_NOT_LOADED")
            response = answer(call, request, context)
            response.model_version = f"models/m/versions/{7 if call <= 2 else 8}"
            return response

        self.server.scripts["Classify"] = moved
        texts = [f"text {i}" for i in range(1500)]
        answers = self.client.classify(texts, model="m@production")
        self.assertEqual([each.label for each in answers], texts)
        versions = [each.model_version for each in answers]
        self.assertEqual(versions, ["models/m/versions/7"] * 512 + ["models/m/versions/8"] * 988)
        # Who asked for a version gets that one.
        with self.assertRaises(tasuki.FailedPrecondition):
            self.client.classify(texts, model="m@7")

    def test_a_server_that_goes_away_is_waited_for(self):
        self.classify_as()
        stream = self.server.scripts["StreamClassify"]

        def away(call, requests, context):
            for number, each in enumerate(stream(call, requests, context)):
                if number == (3 if call == 1 else 0) and call < 12:  # a call makes five attempts
                    fail(context, unavailable("DRAINING") if call % 2 else ServerError(StatusCode.CANCELLED))
                yield each

        self.server.scripts["StreamClassify"] = away
        texts = [f"text {i}" for i in range(2000)]
        self.assertEqual([each.label for each in self.client.stream_classify(texts, model="m")], texts)
        self.assertEqual(self.server.calls["StreamClassify"], 12)
        # For as long as patience lasts, and no longer than a call if there was no answer yet.
        self.server.scripts["StreamClassify"] = lambda call, requests, context: fail(context, unavailable())
        self.server.calls.clear()
        with self.assertRaises(tasuki.Unavailable):
            list(self.client.stream_classify(texts, model="m"))
        self.assertEqual(self.server.calls["StreamClassify"], 5)

        def gone(call, requests, context):
            if call > 1:
                fail(context, unavailable())
            yield next(stream(call, requests, context))
            fail(context, unavailable())

        self.server.scripts["StreamClassify"] = gone
        self.server.calls.clear()
        client = self.client.with_options(timeout=tasuki.Timeouts(patience=1))
        answers = client.stream_classify(texts, model="m")
        self.assertEqual(len([next(answers) for _ in range(256)]), 256)
        with self.assertRaises(tasuki.Unavailable):
            next(answers)
        self.assertGreater(self.server.calls["StreamClassify"], 5)

    def test_an_answer_that_does_not_come_ends_a_stream(self):
        self.classify_as()
        answer = self.server.scripts["Classify"]
        self.server.scripts["Classify"] = lambda call, request, context: (
            answer if call == 1 else self.server.hang
        )(call, request, context)
        with self.assertRaisesRegex(tasuki.DeadlineExceeded, "no answer within 3 s"):
            self.client.classify(["x"] * 600, model="m", timeout=3)
        self.assertTrue(self.server.cancelled.wait(10))

    def test_calls_are_kept_small(self):
        self.classify_as()
        texts = ["a" * 50_000] * 5 + ["b" * (1 << 20)] + [""] * 3
        self.assertEqual([answer.label for answer in self.client.classify(texts, model="m")], texts)
        self.assertEqual(sorted(self.sizes), [1, 1, 2, 2, 3])

    def test_four_requests_are_under_way_at_a_time(self):
        self.classify_as()
        answer = self.server.scripts["Classify"]
        ahead = []

        def reads_on(call, requests, context):
            yield v1.StreamClassifyResponse(response=answer(1, next(requests).request, context))
            ahead.extend(next(requests) for _ in range(4))  # before any of these is answered
            for each in itertools.chain(ahead, requests):
                yield v1.StreamClassifyResponse(response=answer(2, each.request, context))

        self.server.scripts["StreamClassify"] = reads_on
        self.assertEqual(len(self.client.classify(["x"] * 256 * 6, model="m")), 256 * 6)
        self.assertEqual(len(ahead), 4)

    def test_answers_too_large_for_one_message_are_asked_for_in_parts(self):
        self.classify_as(most=70)
        texts = [f"text {i}" for i in range(600)]
        self.assertEqual([answer.label for answer in self.client.classify(texts, model="m")], texts)
        self.assertLessEqual(max(self.sizes), 64)
        self.classify_as(most=0)
        with self.assertRaises(tasuki.InvalidArgument):
            self.client.classify(["x"] * 5, model="m")

    def test_a_full_queue_is_waited_for(self):
        self.classify_as()
        answer = self.server.scripts["Classify"]

        def full_at_times(call, request, context):
            if call % 2:
                raise ServerError(StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_after=0.01)
            return answer(call, request, context)

        self.server.scripts["Classify"] = full_at_times
        texts = [f"text {i}" for i in range(700)]
        client = self.client.with_options(retries=tasuki.Retries(30, 0.01, 0.02))
        self.assertEqual([answer.label for answer in client.classify(texts, model="m")], texts)

    def test_texts_are_read_as_they_are_wanted(self):
        self.classify_as()
        read = []

        def endless():
            while True:
                read.append(len(read))
                yield "x"

        answers = self.client.stream_classify(endless(), model="m")
        for _ in range(300):
            next(answers)
        answers.close()
        self.assertLess(len(read), 256 * 6)

    def test_fields_of_the_proto_go_through(self):
        seen = []

        def classify(call, request, context):
            seen.append(request)
            return v1.ClassifyResponse(results=[v1.TextPredictions()])

        self.server.scripts["Classify"] = classify
        self.client.classify("x", model="m@production", tasks="t", top_k=2, truncation="ERROR", priority="BULK")
        self.assertEqual(seen[0].model, "models/m/aliases/production")
        self.assertEqual(
            (seen[0].top_k, seen[0].truncation, seen[0].priority), (2, v1.ClassifyRequest.ERROR, v1.ClassifyRequest.BULK)
        )
        self.assertEqual(list(seen[0].tasks), ["t"])
        self.client.classify("x", model="m", truncation="head-and-tail", priority="interactive")
        self.assertEqual((seen[1].truncation, seen[1].priority), (v1.ClassifyRequest.HEAD_AND_TAIL, v1.ClassifyRequest.INTERACTIVE))
        with self.assertRaisesRegex(ValueError, 'truncation="tail" is none of HEAD, HEAD_AND_TAIL, ERROR'):
            self.client.classify("x", model="m", truncation="tail")
        with self.assertRaisesRegex(ValueError, "no_such_field"):
            self.client.classify("x", model="m", no_such_field=1)

    def test_texts_that_no_call_takes(self):
        self.classify_as()
        with self.assertRaisesRegex(ValueError, r"texts\[1\] has 1048577 bytes"):
            self.client.classify(["x", "a" * ((1 << 20) + 1)], model="m")
        with self.assertRaisesRegex(ValueError, r"texts\[0\] is not text"):
            self.client.classify(["\ud800"], model="m")
        with self.assertRaisesRegex(TypeError, r"texts\[0\] is of type bytes"):
            self.client.classify([b"x"], model="m")

    def test_an_answer_with_texts_missing_is_refused(self):
        self.server.scripts["Classify"] = errors_then(v1.ClassifyResponse(results=[v1.TextPredictions()]))
        with self.assertRaisesRegex(tasuki.DataLoss, "1 of 2 texts"):
            self.client.classify(["x", "y"], model="m")

    # ---- Uploads ----
    def upload_as(self, *errors):
        """A script that keeps what it got, and ends its first calls with `errors`."""
        self.got = []

        def upload(call, requests, context):
            header = next(requests).header
            chunks = [request.chunk for request in requests]
            self.got.append((header, b"".join(chunks), max(map(len, chunks), default=0)))
            if call <= len(errors):
                raise errors[call - 1]
            return v1.Dataset(name="datasets/d-1")

        self.server.scripts["UploadDataset"] = upload

    def test_an_upload_streams_a_file_with_its_hash(self):
        self.upload_as()
        file = self.directory() / "reviews.tsv"
        data = b"text\tlabel\n" + b"x\ty\n" * 300_000
        file.write_bytes(data)
        told = []
        answer = self.client.datasets.upload(
            file, text_column="text", value_mapping={"y": "z"}, quoting="NONE", progress=lambda *now: told.append(now)
        )
        self.assertEqual(answer.name, "datasets/d-1")
        header, got, largest = self.got[0]
        self.assertEqual(got, data)
        self.assertEqual(header.sha256, hashlib.sha256(data).hexdigest())
        self.assertEqual(header.display_name, "reviews.tsv")
        wanted = v1.DatasetFormat(kind="TSV", quoting="NONE", text_column="text", value_mapping={"y": "z"})
        self.assertEqual(header.format, wanted)
        self.assertLessEqual(largest, 1 << 20)
        self.assertEqual(told[-1], (len(data), len(data)))
        self.assertGreater(len(told), 3)

    def test_an_upload_is_repeated_if_it_can_be_read_again(self):
        self.upload_as(unavailable(), unavailable())
        file = io.BytesIO(b"..text\n")
        file.seek(2)
        self.client.datasets.upload(file, kind="CSV")
        self.assertEqual([got for _, got, _ in self.got], [b"text\n"] * 3)
        self.assertFalse(file.closed)

    def test_an_upload_that_cannot_be_read_again_is_not_repeated(self):
        self.upload_as(unavailable())
        out, into = os.pipe()
        with open(into, "wb") as writer:
            writer.write(b"text\nx\n")
        with open(out, "rb") as reader, self.assertRaises(tasuki.Unavailable):
            self.client.datasets.upload(reader, kind="CSV")
        header, got, _ = self.got[0]
        self.assertEqual((header.sha256, got), ("", b"text\nx\n"))
        self.assertEqual(self.server.calls["UploadDataset"], 1)

    def test_what_a_source_raises_ends_the_upload(self):
        given_up = threading.Event()
        taken_for_all = []

        def upload(call, requests, context):
            context.add_callback(given_up.set)
            got = [request.chunk for request in requests]
            # The end of a stream that is given up looks like any other for a moment.
            if not given_up.wait(5):
                taken_for_all.append(got)
            return DATASET

        self.server.scripts["UploadDataset"] = upload

        class Broken(io.RawIOBase):
            pieces = 3

            def seekable(self):
                return False

            def read(self, size=-1):
                self.pieces -= 1
                if self.pieces == 0:
                    raise OSError("the disk is gone")
                return b"text\n"

        with self.assertRaisesRegex(OSError, "the disk is gone"):
            self.client.datasets.upload(Broken(), kind="CSV")
        self.assertTrue(given_up.wait(10))
        self.assertEqual(taken_for_all, [])

    def test_an_upload_that_the_server_refuses_early(self):
        def refuses(call, requests, context):
            next(requests)
            raise ServerError(StatusCode.INVALID_ARGUMENT, "UNSUPPORTED_FORMAT")

        self.server.scripts["UploadDataset"] = refuses
        with self.assertRaises(tasuki.InvalidArgument) as caught:
            self.client.datasets.upload(b"x" * (32 << 20), kind="CSV")
        self.assertEqual(caught.exception.reason, "UNSUPPORTED_FORMAT")

    def test_rows(self):
        self.upload_as()

        class Frame:  # what is used of a pandas.DataFrame
            columns = ("text", "label")

            def to_json(self, orient, lines, force_ascii):
                assert (orient, lines, force_ascii) == ("records", True, False)
                return plain

        plain = '{"text": "良い", "label": 1}\n{"text": "悪い", "label": 0}\n'
        for rows in (
            [("良い", 1), ("悪い", 0)],
            [{"text": "良い", "label": 1}, {"text": "悪い", "label": 0}],
            ["良い", "悪い"],
            Frame(),
            iter([]),
        ):
            self.client.datasets.upload(rows)
        self.assertEqual(
            [got.decode() for _, got, _ in self.got],
            [
                plain,
                plain,
                '{"text": "良い"}\n{"text": "悪い"}\n',
                plain,
                "",
            ],
        )
        self.assertTrue(all(header.format.kind == v1.DatasetFormat.JSONL for header, _, _ in self.got))
        for wrong in ([1], {"text": ["x"]}, [("a", "b", "c")]):
            with self.assertRaises(TypeError):
                self.client.datasets.upload(wrong)

    def test_files_that_cannot_be_sent(self):
        directory = self.directory()
        with self.assertRaises(FileNotFoundError):
            self.client.datasets.upload(directory / "nothing.csv")
        with self.assertRaises(ValueError):
            self.client.datasets.upload(directory)
        (directory / "rows.txt").write_text("x")
        with self.assertRaisesRegex(ValueError, "what kind of file"):
            self.client.datasets.upload(directory / "rows.txt")
        with open(directory / "rows.txt") as text, self.assertRaisesRegex(TypeError, "binary"):
            self.client.datasets.upload(text, kind="CSV")
        self.assertEqual(self.server.calls["UploadDataset"], 0)

    # ---- Watching ----
    def test_a_watch_goes_on_where_it_was_lost(self):
        asked = []

        def watch(call, request, context):
            asked.append(request.from_sequence)
            for sequence in range(request.from_sequence, 8):
                if call < 4 and sequence == 2 * call + 1:
                    fail(context, unavailable("DRAINING") if call % 2 else ServerError(StatusCode.CANCELLED))
                yield v1.WatchTrainingJobResponse(event=v1.TrainingJobEvent(sequence=sequence))

        self.server.scripts["WatchTrainingJob"] = watch
        self.assertEqual([event.sequence for event in self.client.jobs.watch("j")], [1, 2, 3, 4, 5, 6, 7])
        self.assertEqual(asked, [1, 3, 5, 7])
        asked.clear()
        self.assertEqual([event.sequence for event in self.client.jobs.watch("j", from_sequence=5)], [5, 6, 7])

    def test_a_watch_gives_up_when_nobody_answers(self):
        self.server.scripts["WatchTrainingJob"] = errors_then(None, *[unavailable()] * 999)
        client = self.client.with_options(timeout=tasuki.Timeouts(patience=0.3))
        with self.assertRaises(tasuki.Unavailable):
            list(client.jobs.watch("j"))
        self.assertGreater(self.server.calls["WatchTrainingJob"], 2)

    def test_a_watch_notices_a_gap(self):
        self.server.scripts["WatchTrainingJob"] = lambda call, request, context: iter(
            [v1.WatchTrainingJobResponse(event=v1.TrainingJobEvent(sequence=sequence)) for sequence in (1, 2, 4)]
        )
        with self.assertRaisesRegex(tasuki.DataLoss, "event 4 of trainingJobs/j where 3"):
            list(self.client.jobs.watch("j"))

    def test_a_watch_has_a_deadline_if_it_is_given_one(self):
        self.server.scripts["WatchTrainingJob"] = self.server.hang
        with self.assertRaises(tasuki.DeadlineExceeded):
            list(self.client.jobs.watch("j", timeout=0.3))

    def test_waiting_for_a_job_that_failed(self):
        failed = v1.TrainingJob(name="trainingJobs/j", state="FAILED")
        failed.error.CopyFrom(ServerError(StatusCode.OUT_OF_RANGE, "NON_FINITE_LOSS").status)
        self.server.scripts["GetTrainingJob"] = errors_then(failed)
        self.server.scripts["WatchTrainingJob"] = lambda call, request, context: iter([])
        with self.assertRaisesRegex(tasuki.JobError, "trainingJobs/j is FAILED: OUT_OF_RANGE .NON_FINITE_LOSS") as caught:
            self.client.jobs.wait("j")
        self.assertEqual(caught.exception.error.reason, "NON_FINITE_LOSS")
        self.assertEqual(caught.exception.job, failed)
        self.assertEqual(self.client.jobs.wait("j", check=False), failed)

    # ---- Downloads ----
    def test_an_export_that_is_not_what_was_declared_is_not_kept(self):
        file = v1.ModelFile(name="config.json", size_bytes=2, sha256=hashlib.sha256(b"{}").hexdigest())
        self.server.scripts["GetModelVersion"] = errors_then(v1.ModelVersion(name="models/m/versions/1", files=[file]))
        parts = [v1.ExportModelVersionResponse(file=file), v1.ExportModelVersionResponse(chunk=b"{]")]
        self.server.scripts["ExportModelVersion"] = lambda call, request, context: iter(parts)
        directory = self.directory()
        with self.assertRaisesRegex(tasuki.DataLoss, "config.json"):
            self.client.models.export("m@1", directory / "out")
        parts[0].file.name = "../config.json"
        with self.assertRaisesRegex(tasuki.DataLoss, "no file name"):
            self.client.models.export("m@1", directory / "out")
        self.assertEqual(list(directory.iterdir()), [])
        (directory / "mine").write_text("")
        with self.assertRaises(FileExistsError):
            self.client.models.export("m@1", directory)

    def test_an_export_that_is_cut_is_made_again(self):
        file = v1.ModelFile(name="a/config.json", size_bytes=2, sha256=hashlib.sha256(b"{}").hexdigest())
        self.server.scripts["GetModelVersion"] = errors_then(v1.ModelVersion(name="models/m/versions/1", files=[file]))

        def export(call, request, context):
            yield v1.ExportModelVersionResponse(file=file)
            yield v1.ExportModelVersionResponse(chunk=b"{")
            if call == 1:
                fail(context, unavailable())
            yield v1.ExportModelVersionResponse(chunk=b"}")

        self.server.scripts["ExportModelVersion"] = export
        out = self.client.models.export("m@1", self.directory() / "out")
        self.assertEqual((out / "a" / "config.json").read_bytes(), b"{}")

    def test_predictions_that_lack_bytes_are_not_kept(self):
        parts = [v1.DownloadPredictionsResponse(size_bytes=3, chunk=b"ab")]
        self.server.scripts["DownloadPredictions"] = lambda call, request, context: iter(parts)
        directory = self.directory()
        with self.assertRaisesRegex(tasuki.DataLoss, "2 bytes of 3"):
            self.client.jobs.download_predictions("j", directory / "answers.jsonl")
        self.assertEqual(list(directory.iterdir()), [])
        parts.append(v1.DownloadPredictionsResponse(size_bytes=3, chunk=b"c"))
        self.assertEqual(self.client.jobs.download_predictions("j", directory / "answers.jsonl").read_bytes(), b"abc")

    def test_a_directory_that_cannot_be_imported(self):
        directory = self.directory()
        for file, fault in (
            ("pytorch_model.bin", "pickle"),
            ("model.safetensors", "config.json"),
            ("config.json", "spiece.model"),
            ("adapter_config.json", "adapter"),
        ):
            (directory / file).write_bytes(b"{}")
            with self.assertRaisesRegex(ValueError, fault):
                self.client.models.import_version("m", directory)
        with self.assertRaises(FileNotFoundError):
            self.client.models.import_version("m", directory / "nothing")

    # ---- Aliases ----
    def test_aliases(self):
        alias = v1.ModelAlias(name="models/m/aliases/production")
        seen = []

        def keep(call, request, context):
            seen.append(request)
            return alias

        for method in ("SetModelAlias", "RollbackModelAlias", "ShadowModelAlias", "GetModelAlias", "DeleteModelAlias"):
            self.server.scripts[method] = keep
        self.server.scripts["ListModelAliases"] = errors_then(v1.ListModelAliasesResponse(model_aliases=[alias]))
        name = "models/m/aliases/production"
        models = self.client.models
        self.assertEqual(models.set_alias("m@production", "m@3"), alias)
        models.rollback_alias(name)
        models.shadow_alias("m@production", "")
        models.get_alias("m@production")
        models.delete_alias("m@production")
        self.assertEqual(
            seen,
            [
                v1.SetModelAliasRequest(name=name, model_version="models/m/versions/3"),
                v1.RollbackModelAliasRequest(name=name),
                v1.ShadowModelAliasRequest(name=name),
                v1.GetModelAliasRequest(name=name),
                v1.DeleteModelAliasRequest(name=name),
            ],
        )
        self.assertEqual(list(models.list_aliases("m")), [alias])
        self.server.scripts["GetModelAlias"] = errors_then(v1.ModelAlias(name=name, model_version="models/m/versions/3"))
        self.server.scripts["GetModelVersion"] = lambda call, request, context: v1.ModelVersion(name=request.name)
        self.assertEqual(models.get_version("m@production").name, "models/m/versions/3")
        # Going back twice would be at the newer version again.
        self.server.scripts["RollbackModelAlias"] = errors_then(alias, *[unavailable()] * 9)
        self.server.calls.clear()
        with self.assertRaises(tasuki.Unavailable):
            models.rollback_alias(name)
        self.assertEqual(self.server.calls["RollbackModelAlias"], 1)


class BlockingConnection(Connection, Blocking, unittest.TestCase):
    def test_ctrl_c_cancels_the_call(self):
        self.server.scripts["GetDataset"] = self.server.hang
        # Where the tests run in the background, SIGINT is ignored, and children inherit that.
        heeds = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        program = f"{heeds}; import tasuki; tasuki.Client({self.server.address!r}).datasets.get('d-1')"
        child = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
        deadline = time.monotonic() + 30
        while not self.server.calls["GetDataset"] and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)  # the call has begun; now the child waits for it
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=30)
        self.assertIn(b"KeyboardInterrupt", errors)
        self.assertNotIn(b"Exception ignored", errors)
        self.assertTrue(self.server.cancelled.wait(10))

    def test_it_works_beside_an_event_loop(self):
        self.server.scripts["GetDataset"] = errors_then(DATASET)
        self.server.scripts["ListDatasets"] = errors_then(v1.ListDatasetsResponse(datasets=[DATASET]))

        async def in_a_notebook():
            return self.client.datasets.get("d-1").name, [row.name for row in self.client.datasets.list()]

        self.assertEqual(asyncio.run(in_a_notebook()), ("datasets/d-1", ["datasets/d-1"]))

    def test_threads_share_a_client(self):
        self.classify_as()
        answers = {}

        def ask(name):
            answers[name] = [answer.label for answer in self.client.classify([f"{name} {i}" for i in range(300)], model="m")]

        threads = [threading.Thread(target=ask, args=(f"thread {i}",)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for name, labels in answers.items():
            self.assertEqual(labels, [f"{name} {i}" for i in range(300)])
        self.assertEqual(len(answers), 4)


class AioConnection(Aio, Connection, unittest.TestCase):
    def test_cancelling_a_task_cancels_its_call(self):
        self.server.scripts["GetDataset"] = self.server.hang

        async def cancelled():
            async with tasuki.aio.Client(self.server.address) as client:
                task = asyncio.create_task(client.datasets.get("d-1"))
                while not self.server.calls["GetDataset"]:
                    await asyncio.sleep(0.02)
                task.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await task
                self.assertTrue(await asyncio.to_thread(self.server.cancelled.wait, 10))

        self.loop.run_until_complete(cancelled())

    def test_a_timeout_of_asyncio_cancels_the_call(self):
        self.server.scripts["Classify"] = self.server.hang

        async def timed_out():
            async with tasuki.aio.Client(self.server.address) as client:
                with self.assertRaises(TimeoutError):
                    async with asyncio.timeout(1):
                        await client.classify(["x"] * 300, model="m")
                self.assertTrue(await asyncio.to_thread(self.server.cancelled.wait, 10))

        self.loop.run_until_complete(timed_out())

    def test_calls_run_beside_each_other(self):
        together = threading.Barrier(5)

        def waits_for_the_others(call, request, context):
            together.wait(20)
            return DATASET

        self.server.scripts["GetDataset"] = waits_for_the_others

        async def all_at_once():
            async with tasuki.aio.Client(self.server.address) as client:
                return await asyncio.gather(*(client.datasets.get("d-1") for _ in range(5)))

        self.assertEqual(len(self.loop.run_until_complete(all_at_once())), 5)


@functools.cache
def certificates():
    """An authority's certificate, and those of a server "tasuki.test" and of a client "somebody" that it signed."""
    kept = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(kept.cleanup)
    directory = Path(kept.name)

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    openssl("req", "-x509", *key, "-keyout", "authority.key", "-out", "authority.pem", "-subj", "/CN=authority")
    openssl("req", "-x509", *key, "-keyout", "stranger.key", "-out", "stranger.pem", "-subj", "/CN=stranger")
    for who, name in (("server", "tasuki.test"), ("client", "somebody")):
        signed = ["-CA", "authority.pem", "-CAkey", "authority.key", "-addext", f"subjectAltName=DNS:{name}"]
        openssl("req", "-x509", *key, "-keyout", f"{who}.key", "-out", f"{who}.pem", "-subj", f"/CN={name}", *signed)
    return {path.name: path for path in directory.iterdir()}


if __name__ == "__main__":
    unittest.main(verbosity=1)
