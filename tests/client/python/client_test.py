"""The Python client against the real tasukid: every call that it has, blocking and asyncio."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import tasuki
from fake_server import Aio, Blocking
from tasuki import v1
from tasukid import COUNTERFACTUAL, SENTIMENT, TINY, Tasukid, long_job, reviews_job, world

EXAMPLES = Path(__file__).parents[3] / "client" / "python" / "examples"
TEXTS = [text for text, _ in SENTIMENT[:5]]


def tearDownModule():
    if world.cache_info().currsize:
        world().server.stop()


class Client:
    def setUp(self):
        super().setUp()
        self.world = world()
        self.client = self.connect(self.world.server.address)
        self.name = self.id().rsplit(".", 1)[-1][:30].strip("_").replace("_", "-") + "-" + type(self).__name__.lower()

    def directory(self):
        kept = tempfile.TemporaryDirectory()
        self.addCleanup(kept.cleanup)
        return Path(kept.name)

    # ---- Server ----
    def test_the_server(self):
        self.assertEqual(self.client.server_info().store, "sqlite")
        self.assertEqual(self.client.set_log_level("error").log_level, "error")
        with self.assertRaises(tasuki.InvalidArgument):
            self.client.set_log_level("loud")
        self.assertEqual(self.client.health(), "SERVING")
        with self.assertRaises(tasuki.NotFound):
            self.client.health("no.such.Service")

    # ---- Classify ----
    def test_classify(self):
        answers = self.client.classify(TEXTS, model="reviews")
        self.assertEqual(answers.model_version, "models/reviews/versions/1")
        self.assertEqual([answer.text for answer in answers], TEXTS)
        for answer in answers:
            self.assertEqual(list(answer), ["counterfactual", "sentiment"])
            sentiment = answer["sentiment"]
            self.assertEqual(set(sentiment.scores), {"negative", "neutral", "positive"})
            self.assertAlmostEqual(sum(sentiment.scores.values()), 1)
            self.assertEqual(sentiment.label, max(sentiment.scores, key=sentiment.scores.get))
            self.assertEqual(sentiment.probability, max(sentiment.scores.values()))
            self.assertEqual((sentiment.abstained, sentiment.truncated), (False, False))
            self.assertGreater(sentiment.token_count, 5)
        one = self.client.classify(TEXTS[0], model="models/reviews/versions/1", tasks=["sentiment"])
        self.assertEqual(one[0].label, answers[0]["sentiment"].label)
        self.assertEqual(one[0].probability, answers[0]["sentiment"].probability)

    def test_a_text_that_is_cut_is_said_to_be(self):
        answer = self.client.classify("最高です。" * 200, model="reviews", tasks="sentiment")[0]
        self.assertTrue(answer.truncated)
        self.assertGreater(answer.token_count, 64)

    def test_many_texts_are_answered_as_one_by_one(self):
        texts = [f"{i}日前に届いた本は普通です。" for i in range(600)]
        answers = self.client.classify(texts, model="reviews", tasks="sentiment")
        self.assertEqual([answer.text for answer in answers], texts)
        for i in (0, 255, 256, 599):
            self.assertEqual(self.client.classify(texts[i], model="reviews", tasks="sentiment")[0], answers[i])

    def test_classify_shows_progress(self):
        shown = io.StringIO()
        with contextlib.redirect_stderr(shown):
            self.client.classify(TEXTS, model="reviews", progress=True)
        self.assertIn("classifying: 100%", shown.getvalue())
        self.assertIn("5/5", shown.getvalue())

    def test_errors_of_classify(self):
        for model, tasks, kind, reason in (
            ("nothing", (), tasuki.NotFound, "RESOURCE_NOT_FOUND"),
            ("reviews", "no-such-task", tasuki.InvalidArgument, "TASK_UNKNOWN"),
            ("base", (), tasuki.FailedPrecondition, "MODEL_NOT_LOADED"),
            ("models/re views", (), tasuki.InvalidArgument, "FIELD_INVALID"),
        ):
            with self.assertRaises(kind) as caught:
                self.client.classify("x", model=model, tasks=tasks)
            self.assertEqual(caught.exception.reason, reason)

    # ---- Datasets ----
    def test_a_dataset_from_file_to_deletion(self):
        file = self.directory() / f"{self.name}.csv"
        file.write_text("review,stars\n" + "".join(f"{self.name} {i},{i % 5 + 1}\n" for i in range(50)), encoding="utf-8")
        stars = {"1": "bad", "2": "bad", "3": "fair", "4": "good", "5": "good"}
        told = []
        dataset = self.client.datasets.upload(
            file, text_column="review", label_column="stars", value_mapping=stars, progress=lambda *now: told.append(now)
        )
        self.assertEqual((dataset.row_count, dataset.display_name), (50, file.name))
        self.assertEqual({each.value: each.row_count for each in dataset.label_counts}, {"bad": 20, "fair": 10, "good": 20})
        self.assertEqual(told, [(file.stat().st_size, file.stat().st_size)])
        self.assertEqual(self.client.datasets.get(dataset.name.partition("/")[2]), dataset)
        self.assertIn(dataset.name, [each.name for each in self.client.datasets.list()])
        self.assertEqual(len(list(self.client.datasets.list(limit=1))), 1)
        # The same rows have the same name, in whatever form they come.
        rows = [{"text": f"{self.name} {i}", "label": stars[str(i % 5 + 1)]} for i in range(50)]
        self.assertEqual(self.client.datasets.upload(rows).name, dataset.name)
        self.client.datasets.delete(dataset.name)
        with self.assertRaises(tasuki.NotFound):
            self.client.datasets.get(dataset.name)

    def test_an_upload_with_bad_rows(self):
        file = self.directory() / "bad.tsv"
        file.write_text("text\tlabel\ngood row\ta\nno label\nanother\t\n", encoding="utf-8")
        with self.assertRaises(tasuki.InvalidArgument) as caught:
            self.client.datasets.upload(file)
        self.assertEqual(caught.exception.reason, "ROWS_INVALID")
        answer = self.client.datasets.check(file)
        self.assertEqual((answer.bad_row_count, [bad.row for bad in answer.bad_rows]), (2, [2, 3]))
        with self.assertRaises(tasuki.InvalidArgument) as caught:
            self.client.datasets.upload(file, text_column="review")
        self.assertEqual(caught.exception.reason, "COLUMN_MISSING")

    def test_an_upload_shows_progress(self):
        shown = io.StringIO()
        with contextlib.redirect_stderr(shown):
            self.client.datasets.upload(["a text"] * 50_000, progress=True)
        self.assertIn("sending: 100%", shown.getvalue())

    def test_a_large_file_that_is_refused_is_told_why(self):
        with self.assertRaises(tasuki.InvalidArgument) as caught:
            self.client.datasets.upload(b"PK\x03\x04" + bytes(16 << 20), kind="CSV")
        self.assertEqual(caught.exception.reason, "UNSUPPORTED_FORMAT")

    def test_an_upload_that_breaks_off_leaves_nothing(self):
        before = [dataset.name for dataset in self.client.datasets.list()]

        class Broken(io.RawIOBase):
            """Whole rows, and then a fault; it cannot be read twice, so that no hash is declared."""

            def __init__(self):
                self.pieces = iter([b"text\n", f"broken off {time.time()}\n".encode()])

            def seekable(self):
                return False

            def read(self, size=-1):
                piece = next(self.pieces, None)
                if piece is None:
                    raise OSError("the disk is gone")
                return piece

        for _ in range(5):
            with self.assertRaisesRegex(OSError, "the disk is gone"):
                self.client.datasets.upload(Broken(), kind="CSV")
        time.sleep(0.5)
        self.assertEqual([dataset.name for dataset in self.client.datasets.list()], before)

    def test_inspect(self):
        first = self.client.datasets.inspect(self.world.sentiment, row_count=2)
        self.assertEqual([row.text for row in first.examples], TEXTS[:2])
        self.assertEqual(len(first.reports), 0)
        report = self.client.datasets.inspect(
            self.world.sentiment, report=True, other_datasets=[self.world.counterfactual], model_version="base"
        )
        self.assertEqual([each.dataset.name for each in report.reports], [self.world.sentiment, self.world.counterfactual])
        self.assertGreater(report.reports[0].token_lengths.total, len(SENTIMENT))
        self.assertEqual(len(report.overlaps), 1)

    # ---- Jobs ----
    def test_a_job_from_a_file_is_watched_to_its_end(self):
        file = self.directory() / "job.yaml"
        file.write_text(
            """
            model: ${MODEL}
            display_name: costs $${5}
            fine_tuning:
              base_model_version: base
              tasks:
                - {name: sentiment, labels: [{name: negative, values: [negative, 1]}, {name: neutral}, {name: positive}],
                   train_dataset: "${TRAIN}", valid_dataset: "${TRAIN}"}
              recipe: {steps: 6, evaluate_every_steps: 3, learning_rate: 1e-3, schedule: linear, freeze_embeddings: true}
            """,
            encoding="utf-8",
        )
        os.environ["TRAIN"] = self.world.sentiment.partition("/")[2]
        self.addCleanup(os.environ.pop, "TRAIN")
        with self.assertRaisesRegex(ValueError, "the variable MODEL is not defined"):
            self.client.jobs.create(file)
        job = self.client.jobs.create(file, id=self.name, variables={"MODEL": "from-file"})
        self.assertEqual((job.name, job.model, job.display_name), (f"trainingJobs/{self.name}", "models/from-file", "costs ${5}"))
        self.assertTrue(job.fine_tuning.recipe.freeze_embeddings)
        self.assertEqual(job.fine_tuning.recipe.schedule, v1.Recipe.LINEAR)
        self.assertEqual(list(job.fine_tuning.tasks[0].labels[0].values), ["negative", "1"])
        events = list(self.client.jobs.watch(self.name))
        self.assertEqual([event.sequence for event in events], list(range(1, len(events) + 1)))
        self.assertEqual(events[-1].state_changed.state, v1.TrainingJob.SUCCEEDED)
        self.assertEqual(list(self.client.jobs.watch(self.name, from_sequence=len(events) - 1)), events[-2:])
        done = self.client.jobs.wait(self.name)
        self.assertTrue(done.model_version.startswith("models/from-file/versions/"))
        self.assertEqual(self.client.jobs.get(self.name), done)
        self.assertGreater(len(self.client.jobs.log(self.name)), 0)
        self.assertIn(done.name, [each.name for each in self.client.jobs.list(states=["SUCCEEDED"])])
        self.assertNotIn(done.name, [each.name for each in self.client.jobs.list(states=[v1.TrainingJob.FAILED])])
        for refused in (self.client.jobs.pause, self.client.jobs.resume, self.client.jobs.finish, self.client.jobs.retry):
            with self.assertRaises(tasuki.FailedPrecondition) as caught:
                refused(self.name)
            self.assertEqual(caught.exception.reason, "JOB_STATE")
        self.client.jobs.delete(self.name)
        with self.assertRaises(tasuki.NotFound):
            self.client.jobs.get(self.name)

    def test_waiting_shows_progress(self):
        told = []
        job = reviews_job(self.world.counterfactual, self.world.sentiment)
        job["model"] = self.name
        self.client.jobs.wait(self.client.jobs.create(job, id=self.name).name, progress=lambda *now: told.append(now))
        self.assertEqual(told[-1], (12, 12))
        shown = io.StringIO()
        with contextlib.redirect_stderr(shown):
            self.client.jobs.wait(self.name, progress=True)  # it has ended: there is nothing to wait for
        self.assertIn(self.name, shown.getvalue())

    def test_a_job_that_does_not_end_by_itself(self):
        job = self.client.jobs.create(long_job(self.world.sentiment), id=self.name)
        try:
            with self.assertRaises(tasuki.DeadlineExceeded):
                self.client.jobs.wait(job.name, timeout=0.5)
            for event in self.client.jobs.watch(job.name):
                if event.progress.step > 0:
                    break
            self.client.jobs.pause(job.name)
            for event in self.client.jobs.watch(job.name, from_sequence=event.sequence):
                if event.state_changed.state == v1.TrainingJob.PAUSED:
                    break
            self.assertEqual(self.client.jobs.resume(job.name).state, v1.TrainingJob.QUEUED)
            with self.assertRaises(tasuki.FailedPrecondition):
                self.client.jobs.delete(job.name)
        finally:
            self.client.jobs.cancel(job.name)
        with self.assertRaisesRegex(tasuki.JobError, "is CANCELLED"):
            self.client.jobs.wait(job.name)
        self.assertEqual(self.client.jobs.wait(job.name, check=False).state, v1.TrainingJob.CANCELLED)

    def test_a_job_that_is_asked_to_finish(self):
        job = self.client.jobs.create(long_job(self.world.sentiment), id=self.name)
        for event in self.client.jobs.watch(job.name):
            if event.progress.step > 0:
                break
        self.client.jobs.finish(job.name)
        done = self.client.jobs.wait(job.name)
        self.assertLess(done.progress.step, done.progress.total_steps)
        self.assertTrue(done.model_version)

    def test_a_job_with_faults(self):
        job = reviews_job(self.world.counterfactual, "d-0000000000000000")
        job["fine_tuning"]["recipe"]["epochs"] = -1
        with self.assertRaises(tasuki.InvalidArgument) as caught:
            self.client.jobs.create(job)
        fields = [fault.field for fault in caught.exception.field_faults]
        self.assertIn("fine_tuning.recipe.epochs", fields)
        self.assertIn("fine_tuning.tasks[1].train_dataset", fields)
        with self.assertRaisesRegex(ValueError, "no_such_field"):
            self.client.jobs.create({"no_such_field": 1})
        checked = self.client.jobs.create(
            reviews_job(self.world.counterfactual, self.world.sentiment), id=self.name, validate_only=True
        )
        self.assertEqual(checked.fine_tuning.recipe.learning_rate, 3e-4)
        with self.assertRaises(tasuki.NotFound):
            self.client.jobs.get(self.name)
        with self.assertRaises(tasuki.AlreadyExists):
            self.client.jobs.create(reviews_job(self.world.counterfactual, self.world.sentiment), id="reviews")

    def test_an_estimate(self):
        estimate = self.client.jobs.estimate(reviews_job(self.world.counterfactual, self.world.sentiment))
        self.assertEqual(estimate.steps, 12)
        self.assertGreater(estimate.memory.peak_bytes, 0)

    def test_an_evaluation_and_its_predictions(self):
        task = {"name": "sentiment", "test_dataset": self.world.sentiment}
        job = self.client.jobs.create(
            {"evaluation": {"model_version": "reviews@1", "tasks": [task], "write_predictions": True}}, id=self.name
        )
        done = self.client.jobs.wait(job.name)
        self.assertEqual(
            {evaluation.method for evaluation in done.evaluations}, {v1.Evaluation.LABEL, v1.Evaluation.TEACHER_FORCED}
        )
        told = []
        file = self.client.jobs.download_predictions(
            job.name, self.directory() / "answers.jsonl", progress=lambda *now: told.append(now)
        )
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        self.assertEqual(len(rows), len(SENTIMENT))
        self.assertEqual(told[-1], (file.stat().st_size, file.stat().st_size))
        answers = self.client.classify([text for text, _ in SENTIMENT], model="reviews@1", tasks="sentiment")
        self.assertEqual([row["predicted"] for row in rows], [answer.label for answer in answers])
        with self.assertRaises(tasuki.FailedPrecondition):
            self.client.jobs.download_predictions("reviews", self.directory() / "none.jsonl")

    # ---- Models ----
    def test_a_model_goes_out_and_comes_in_again(self):
        out = self.directory() / "reviews"
        told = []
        self.assertEqual(self.client.models.export("reviews@1", out, progress=lambda *now: told.append(now)), out)
        total = sum(file.stat().st_size for file in out.iterdir())
        self.assertEqual(told[-1], (total, total))
        told.clear()
        version = self.client.models.import_version(self.name, out, progress=lambda *now: told.append(now))
        self.assertEqual(version.name, f"models/{self.name}/versions/1")
        self.assertEqual(told[-1], (total, total))
        with self.assertRaises(tasuki.FailedPrecondition):
            self.client.classify("x", model=self.name)
        self.assertEqual(self.client.models.load(self.name).state, v1.ModelVersion.LOADED)
        ours = self.client.classify(TEXTS, model=self.name)
        self.assertEqual(
            [dict(answer) for answer in ours], [dict(answer) for answer in self.client.classify(TEXTS, model="reviews@1")]
        )
        with self.assertRaises(tasuki.FailedPrecondition):
            self.client.models.delete_version(version.name)
        self.assertEqual(self.client.models.unload(version.name).state, v1.ModelVersion.UNLOADED)
        self.assertEqual(self.client.models.get(self.name).version_count, 1)
        self.assertIn(f"models/{self.name}", [model.name for model in self.client.models.list()])
        self.assertEqual([each.name for each in self.client.models.list_versions(self.name)], [version.name])
        self.assertEqual(self.client.models.get_version(self.name).name, version.name)
        self.client.models.delete_version(version.name)
        with self.assertRaises(tasuki.NotFound):
            self.client.models.get_version(version.name)

    def test_a_directory_that_is_no_model_is_refused(self):
        out = self.client.models.export("base", self.directory() / "base")
        shutil.copyfile(out / "config.json", out / "model.safetensors")
        with self.assertRaises(tasuki.InvalidArgument) as caught:
            self.client.models.import_version("broken", out)
        self.assertEqual(caught.exception.reason, "MODEL_INVALID")

    def test_an_adapter_goes_out(self):
        with self.assertRaises(tasuki.InvalidArgument):
            self.client.models.export("base", self.directory() / "adapter", adapter=True)
        job = long_job(self.world.sentiment, steps=2)
        job["model"] = self.name
        job["fine_tuning"]["lora"] = {"rank": 2}
        self.client.jobs.wait(self.client.jobs.create(job, id=self.name).name)
        out = self.client.models.export(self.name, self.directory() / "adapter", adapter=True)
        self.assertEqual(sorted(file.name for file in out.iterdir()), ["adapter_config.json", "adapter_model.safetensors"])

    # ---- A server that dies ----
    def test_a_watch_survives_the_death_of_the_server(self):
        directory = self.directory()
        server = Tasukid(directory / "data")
        client = self.connect(server.address)
        try:
            texts = client.datasets.upload([text for text, _ in COUNTERFACTUAL]).name
            recipe = {"steps": 100_000, "batch_size": 8, "max_input_tokens": 32}
            job = client.jobs.create(
                {"model": "base", "pretraining": {"datasets": [texts], "vocabulary_size": 200, "size": TINY, "recipe": recipe}}
            )
            sequences = []
            killed = False
            for event in client.jobs.watch(job.name):
                sequences.append(event.sequence)
                if event.progress.step > 0 and not killed:
                    server.kill()
                    server = Tasukid(directory / "data", listen=server.address)
                    killed = True
                elif event.attempt == 2 and event.progress.step > 0:
                    client.jobs.cancel(job.name)
            self.assertEqual(sequences, list(range(1, len(sequences) + 1)))
            self.assertEqual(client.jobs.get(job.name).state, v1.TrainingJob.CANCELLED)
        finally:
            server.stop()


    def test_bulk_work_survives_the_death_of_the_server_and_a_change_of_the_alias(self):
        directory = self.directory()
        out = self.client.models.export("reviews@1", directory / "reviews")
        server = Tasukid(directory / "data")
        client = self.connect(server.address)
        try:
            for _ in range(2):
                client.models.import_version("m", out)
            client.models.set_alias("m@production", "m@1")
            texts = [f"{i}日前に届いた本は普通です。" for i in range(5000)]
            answers = []
            for answer in client.stream_classify(texts, model="m@production", tasks="sentiment"):
                answers.append(answer)
                if len(answers) == 500:
                    server.kill()
                    server = Tasukid(directory / "data", listen=server.address)
                elif len(answers) == 1500:
                    client.models.set_alias("m@production", "m@2")
                    client.models.unload("m@1")
            self.assertEqual([answer.text for answer in answers], texts)
            versions = [answer.model_version for answer in answers]
            self.assertEqual(versions, sorted(versions))
            self.assertEqual((versions[0], versions[-1]), ("models/m/versions/1", "models/m/versions/2"))
        finally:
            server.stop()


class BlockingClient(Client, Blocking, unittest.TestCase):
    pass


class AioClient(Client, Aio, unittest.TestCase):
    pass


class Examples(unittest.TestCase):
    def run_example(self, *command):
        environment = {**os.environ, "TASUKI_SERVER": world().server.address}
        done = subprocess.run([sys.executable, *command], cwd=EXAMPLES, env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_train(self):
        shown = self.run_example("train.py")
        self.assertIn("LABEL: accuracy", shown)
        answers = [line for line in shown.splitlines() if line.startswith("the song")]
        self.assertEqual([("glad" in line, "sad" in line) for line in answers], [(True, False)] * 3 + [(False, True)] * 3)

    def test_classify(self):
        lines = self.run_example("classify.py", "reviews", *TEXTS).splitlines()
        self.assertEqual(len(lines), 1 + 2 * len(TEXTS))
        self.assertTrue(lines[1].startswith(TEXTS[0]))

    def test_many(self):
        with tempfile.TemporaryDirectory() as directory:
            texts, answers = Path(directory) / "texts.txt", Path(directory) / "answers.jsonl"
            texts.write_text("\n".join(TEXTS * 100), encoding="utf-8")
            self.run_example("many.py", "reviews", str(texts), str(answers))
            rows = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
        self.assertEqual([row["text"] for row in rows], TEXTS * 100)
        self.assertEqual(set(rows[0]), {"text", "model_version", "counterfactual", "sentiment"})

    def test_what_they_want_is_said(self):
        for example in ("classify.py", "many.py"):
            done = subprocess.run([sys.executable, EXAMPLES / example], capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stderr[:6]), (1, "usage:"))


if __name__ == "__main__":
    unittest.main(verbosity=1)
