"""What the Python client makes of values without a server: names, jobs, rows, tables, types."""

import inspect
import os
import pickle
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import tasuki
from google.protobuf import symbol_database
from tasuki import aio, classification, client, datasets, jobfile, jobs, models, names, v1
from tasuki.results import Answer, Answers, Prediction
from tasuki.transport import Method

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "client" / "python"


def prediction(label="good", probability=0.75, **fields):
    scores = [v1.LabelScore(label=label, probability=probability), v1.LabelScore(label="other", probability=1 - probability)]
    return Prediction.of(v1.Prediction(task=fields.pop("task", "t"), label=label, scores=scores, **fields))


def answers_to(*texts, **fields):
    return Answers([Answer(text, (prediction(**fields),), "models/m/versions/1") for text in texts])


class Names(unittest.TestCase):
    def test_short_names_are_made_full(self):
        for rule, typed, full in (
            (names.dataset, "d-0123456789abcdef", "datasets/d-0123456789abcdef"),
            (names.dataset, "datasets/d-1", "datasets/d-1"),
            (names.job, "nightly", "trainingJobs/nightly"),
            (names.job, "trainingJobs/nightly", "trainingJobs/nightly"),
            (names.model, "m", "models/m"),
            (names.model, "m@3", "models/m/versions/3"),
            (names.model, "m@production", "models/m/aliases/production"),
            (names.model, "models/m/versions/3", "models/m/versions/3"),
            (names.model, "", ""),
        ):
            self.assertEqual(rule(typed), full)


class Jobs(unittest.TestCase):
    def file(self, text):
        kept = tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8")
        self.addCleanup(kept.close)
        kept.write(text)
        kept.flush()
        return kept.name

    def test_a_mapping_of_fields(self):
        job = jobfile.read(
            {
                "model": "m",
                "fine_tuning": {
                    "base_model_version": "base@2",
                    "tasks": [{"name": "t", "labels": [{"name": "a", "values": [1, "x"]}], "train_dataset": "d-1", "weight": 2}],
                    "recipe": {"time_limit": "60s", "optimizer": "adamw", "freeze_encoder": True, "epochs": 3},
                },
            }
        )
        self.assertEqual(job.model, "models/m")
        self.assertEqual(job.fine_tuning.base_model_version, "models/base/versions/2")
        task = job.fine_tuning.tasks[0]
        self.assertEqual((list(task.labels[0].values), task.train_dataset, task.weight), (["1", "x"], "datasets/d-1", 2))
        recipe = job.fine_tuning.recipe
        self.assertEqual((recipe.time_limit.seconds, recipe.optimizer, recipe.freeze_encoder), (60, v1.Recipe.ADAMW, True))

    def test_a_message_is_not_changed(self):
        given = v1.TrainingJob(model="m", pretraining=v1.Pretraining(datasets=["d-1", "datasets/d-2"]))
        job = jobfile.read(given)
        self.assertEqual((job.model, list(job.pretraining.datasets)), ("models/m", ["datasets/d-1", "datasets/d-2"]))
        self.assertEqual((given.model, list(given.pretraining.datasets)), ("m", ["d-1", "datasets/d-2"]))

    def test_a_file_is_read_as_the_command_reads_it(self):
        job = jobfile.read(
            self.file(
                "model: ${M}\nfine_tuning:\n  lora: {}\n  recipe: {epochs: 2, learning_rate: 1e-3, freeze_embeddings: true}\n  tasks: [{name: on, prefix: '', labels: [{name: 1.0}]}]\n"
            ),
            {"M": "m@1"},
        )
        work = job.fine_tuning
        self.assertEqual(job.model, "models/m/versions/1")
        self.assertTrue(work.HasField("lora"))
        self.assertEqual((work.recipe.epochs, work.recipe.learning_rate, work.recipe.freeze_embeddings), (2, 1e-3, True))
        # Scalars are texts until their field says otherwise.
        self.assertEqual((work.tasks[0].name, work.tasks[0].labels[0].name), ("on", "1.0"))

    def test_variables(self):
        os.environ["TASUKI_VALUES_TEST"] = "from-environment"
        self.addCleanup(os.environ.pop, "TASUKI_VALUES_TEST")
        file = self.file("display_name: a ${X} ${TASUKI_VALUES_TEST} $${X} $X\n")
        self.assertEqual(jobfile.read(file, {"X": "x"}).display_name, "a x from-environment ${X} $X")
        with self.assertRaisesRegex(ValueError, "variable X is not defined"):
            jobfile.read(file)

    def test_what_is_no_job_is_named(self):
        for text, fault in (
            ("a: [", "not valid YAML"),
            ("- 1", "must hold one job"),
            ("recipe: {}", "recipe"),
            ("fine_tuning: {recipe: {epochs: many}}", "epochs"),
        ):
            with self.assertRaisesRegex(ValueError, fault):
                jobfile.read(self.file(text))
        with self.assertRaises(FileNotFoundError):
            jobfile.read("/nowhere/job.yaml")

    def test_the_files_of_the_repository_are_jobs(self):
        wanted = set()
        for file in [*ROOT.glob("client/cli/examples/*.yaml"), *ROOT.glob("demo/*.yaml"), *ROOT.glob("bench/study/*.yaml")]:
            variables = dict.fromkeys(re.findall(r"\$\{(\w+)\}", file.read_text(encoding="utf-8")), "x")
            wanted.add(jobfile.read(file, variables).WhichOneof("work"))
        self.assertEqual(wanted, {"fine_tuning", "pretraining", "evaluation"})


class Results(unittest.TestCase):
    def test_one_task(self):
        answer = answers_to("text", token_count=9, truncated=True)[0]
        self.assertEqual(
            (answer.label, answer.probability, answer.token_count, answer.truncated, answer.abstained),
            ("good", 0.75, 9, True, False),
        )
        self.assertEqual(answer.scores, {"good": 0.75, "other": 0.25})
        self.assertEqual(answer["t"], answer.prediction)
        with self.assertRaises(KeyError):
            answer["u"]

    def test_several_tasks(self):
        answer = Answer("text", (prediction(task="a"), prediction(task="b", label="bad")), "models/m/versions/1")
        self.assertEqual({task: each.label for task, each in answer.items()}, {"a": "good", "b": "bad"})
        with self.assertRaisesRegex(ValueError, r"answer\['a' or 'b'\]"):
            answer.label

    def test_a_table(self):
        answers = answers_to("とても良い", "bad", abstained=True)
        self.assertEqual(
            str(answers),
            "TEXT        TASK  LABEL  PROBABILITY\n"
            "とても良い  t     good   0.7500       abstained\n"
            "bad         t     good   0.7500       abstained",
        )
        self.assertEqual(repr(answers), "<2 answers of models/m/versions/1>")
        self.assertEqual(str(answers[0]).splitlines(), str(answers).splitlines()[:2])

    def test_a_table_stays_small_and_in_its_lines(self):
        answers = answers_to(*["良" * 100 + "\n\x1b[31m\u202e"] * 30)
        lines = str(answers).splitlines()
        self.assertEqual(len(lines), 22)
        self.assertEqual(lines[-1], "… and 10 more")
        self.assertTrue(lines[1].startswith("良" * 29 + "…"))
        self.assertNotRegex(str(answers_to("a\n\x1b[31mb\u202ec")), "[\x1b\u202e]")

    def test_a_notebook(self):
        page = answers_to("<script>alert(1)</script>")._repr_html_()
        self.assertIn("<table>", page)
        self.assertIn("&lt;script&gt;", page)
        self.assertNotIn("<script>", page)
        self.assertIn("models/m/versions/1", page)
        self.assertIn("<td", answers_to("x")[0]._repr_html_())

    def test_rows_for_a_data_frame(self):
        row = {
            "text": "x",
            "task": "t",
            "label": "good",
            "probability": 0.75,
            "abstained": False,
            "truncated": False,
            "token_count": 0,
        }
        self.assertEqual(answers_to("x", "x").rows(), [row, row])

    def test_answers_are_values(self):
        self.assertEqual(answers_to("a", "b"), answers_to("a", "b"))
        self.assertNotEqual(answers_to("a"), answers_to("b"))
        self.assertEqual(answers_to("a", "b", "c")[1:], answers_to("b", "c"))
        self.assertEqual(pickle.loads(pickle.dumps(answers_to("a"))), answers_to("a"))
        self.assertEqual((str(Answers([])).splitlines()[0], Answers([]).model_version), ("TEXT  TASK  LABEL  PROBABILITY", ""))


class Package(unittest.TestCase):
    def test_methods_are_those_of_the_protos(self):
        pool = symbol_database.Default().pool
        found = [
            value
            for module in (aio, classification, datasets, jobs, models)
            for value in vars(module).values()
            if isinstance(value, Method)
        ]
        self.assertGreater(len(found), 30)
        for method in found:
            service, name = method.path.lstrip("/").split("/")
            proto = pool.FindServiceByName(service).methods_by_name[name]
            self.assertEqual((proto.input_type, proto.output_type), (method.request.DESCRIPTOR, method.answer.DESCRIPTOR), name)

    def test_both_clients_have_the_same_methods(self):
        for blocking, asynchronous in (
            (client.Client, aio.Client),
            (client.Datasets, datasets.Datasets),
            (client.Jobs, jobs.Jobs),
            (client.Models, models.Models),
        ):
            ours, theirs = ({name for name in dir(each) if not name.startswith("_")} for each in (blocking, asynchronous))
            self.assertEqual(ours, theirs)
            for name in ours - {"datasets", "jobs", "models"}:
                one, other = inspect.signature(getattr(blocking, name)), inspect.signature(getattr(asynchronous, name))
                self.assertEqual(one.parameters, other.parameters)
                self.assertTrue(getattr(blocking, name).__doc__, name)
        self.assertIn("Iterator[tasuki.v1.datasets_pb2.Dataset]", str(inspect.signature(client.Datasets.list)))
        self.assertNotIn("Async", str(inspect.signature(client.Datasets.list)))

    def test_all_that_is_named_is_there(self):
        for name in tasuki.__all__:
            self.assertIsNotNone(getattr(tasuki, name))
        with self.assertRaises(AttributeError):
            tasuki.nothing

    def test_the_version_is_that_of_the_product(self):
        product = re.search(r"project\(tasuki VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text())
        self.assertEqual(tasuki.__version__, product[1])

    def test_tasuki_convert_needs_no_grpc(self):
        program = "import sys; sys.modules['grpc'] = sys.modules['google.protobuf'] = None; import tasuki.convert; print('ok')"
        self.assertEqual(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout, "ok\n")

    def test_types(self):
        with tempfile.TemporaryDirectory() as directory:
            use = Path(directory) / "use.py"
            use.write_text(
                "import tasuki\n"
                "client = tasuki.Client()\n"
                "reveal_type(client.classify('x', model='m')[0].label)\n"
                "reveal_type(client.jobs.list())\n"
                "client.jobs.get(3)\n"
            )
            mypy = [sys.executable, "-m", "mypy", f"--config-file={PACKAGE / 'pyproject.toml'}", f"--cache-dir={directory}/cache"]
            package = subprocess.run(
                [*mypy, "-p", "tasuki"], cwd=Path(tasuki.__file__).parents[1], capture_output=True, text=True
            )
            self.assertEqual(package.returncode, 0, package.stdout + package.stderr)
            used = subprocess.run([*mypy, str(use)], cwd=Path(tasuki.__file__).parents[1], capture_output=True, text=True).stdout
            self.assertIn('3: note: Revealed type is "str"', used)
            self.assertIn('4: note: Revealed type is "typing.Iterator[tasuki.v1.training_pb2.TrainingJob]"', used)
            self.assertIn('5: error: Argument 1 has incompatible type "int"; expected "str"', used)
            self.assertIn("Found 1 error", used)


if __name__ == "__main__":
    unittest.main(verbosity=1)
