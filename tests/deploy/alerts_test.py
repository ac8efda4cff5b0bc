"""deploy/prometheus: what promtool says of it, and that every alert has its cases and its section in docs/operations.md.

Wants PyYAML and promtool (the variable PROMTOOL, or the PATH).
"""

import os
import re
import subprocess
import unittest
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "deploy" / "prometheus"
ALERTS = {}  # name: its rules
for group in yaml.safe_load((HOME / "rules" / "alerts.yml").read_text(encoding="utf-8"))["groups"]:
    for rule in group["rules"]:
        ALERTS.setdefault(rule["alert"], []).append(rule)
CASES = [case for file in sorted((HOME / "tests").glob("*.yml")) for case in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]]


def promtool(*arguments):
    done = subprocess.run([os.environ.get("PROMTOOL", "promtool"), *map(str, arguments)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def minutes(time):
    return sum(int(number) * {"d": 1440, "h": 60, "m": 1}[unit] for number, unit in re.findall(r"(\d+)([dhm])", time))


def sections(text):
    """The headings of a document as GitHub and others make anchors of them, with what follows each."""
    parts = re.split(r"^#+ (.*)$", text, flags=re.MULTILINE)[1:]
    return {re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-"): body for title, body in zip(parts[::2], parts[1::2])}


class AlertsTest(unittest.TestCase):
    def test_the_configuration_is_one(self):
        status, output = promtool("check", "config", HOME / "prometheus.yml")
        self.assertEqual(status, 0, output)
        self.assertIn("2 rule files found", output)

    def test_the_rules_are_rules(self):
        status, output = promtool("check", "rules", *sorted((HOME / "rules").glob("*.yml")))
        self.assertEqual(status, 0, output)
        self.assertNotIn("FAILED", output)

    def test_every_metric_is_there(self):
        source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "server" / "metrics").glob("*.cc"))
        rules = "".join(path.read_text(encoding="utf-8") for path in (HOME / "rules").glob("*.yml"))
        names = {re.sub("_(bucket|sum|count)$", "", name) for name in re.findall(r"\b(?:tasuki|grpc_server|process)_\w+", rules)}
        self.assertFalse({name for name in names if f'"{name}"' not in source}, "not in server/metrics")

    def test_every_case_holds(self):
        status, output = promtool("test", "rules", *sorted((HOME / "tests").glob("*.yml")))
        self.assertEqual(status, 0, output)

    def test_every_alert_has_a_firing_a_silent_and_a_recovering_case(self):
        for name, rules in ALERTS.items():
            for kind in ("firing", "silent", "recovering"):
                with self.subTest(alert=name, kind=kind):
                    found = [case for case in CASES if case["name"].split(",")[0] == f"{name}: {kind}"]
                    self.assertTrue(found, "there is no such case")
                    for case in found:
                        looks = sorted((minutes(look["eval_time"]), len(look["exp_alerts"])) for look in case["alert_rule_test"] if look["alertname"] == name)
                        self.assertTrue(looks, "it does not look at the alert")
                        if kind == "silent":
                            self.assertFalse(any(count for _, count in looks))
                        else:
                            self.assertTrue(looks[0][1], "it does not fire")
                        if kind == "recovering":
                            self.assertGreater(len(looks), 1)
                            self.assertEqual(looks[-1][1], 0, "it goes on firing")
            # Where a name has several rules, each of them fires.
            fired = [alert["exp_labels"] for case in CASES for look in case.get("alert_rule_test", ()) if look["alertname"] == name for alert in look["exp_alerts"]]
            for rule in rules:
                self.assertTrue(any(rule["labels"].items() <= labels.items() for labels in fired), f"{name} {rule['labels']} never fires")

    def test_no_case_is_about_an_alert_that_there_is_not(self):
        for case in CASES:
            for look in case.get("alert_rule_test", ()):
                self.assertIn(look["alertname"], ALERTS, case["name"])

    def test_every_alert_tells_people_what_is_wrong_and_what_to_do(self):
        document = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
        runbook = sections(document)
        for name, rules in ALERTS.items():
            for rule in rules:
                with self.subTest(alert=name):
                    self.assertIn(rule["labels"]["severity"], ("page", "ticket", "info"))
                    annotations = rule["annotations"]
                    self.assertEqual(sorted(annotations), ["description", "runbook_url", "summary"])
                    file, _, anchor = annotations["runbook_url"].partition("#")
                    self.assertEqual(file, "docs/operations.md")
                    self.assertEqual(anchor, name.lower())
                    self.assertIn(anchor, runbook)
                    for part in ("**It means:**", "**Users notice:**", "**Look:**", "**Mend:**", "**Do not:**"):
                        self.assertIn(part, runbook[anchor])
        written = set(re.findall(r"^### (Tasuki\w+)$", document, flags=re.MULTILINE))
        self.assertEqual(written, set(ALERTS), "the runbook and the alerts do not go together")


if __name__ == "__main__":
    unittest.main()
