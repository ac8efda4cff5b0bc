"""deploy/grafana: the dashboards are what generate.py makes, uniform, and ask only for what there is. Wants nothing but Python.

What queries answer is proven by tests/watch/panels.py against a real Prometheus (script/verify watch).
"""

import json
import re
import subprocess
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARDS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((GRAFANA / "dashboards").glob("*.json"))}
# Series without a server: what operators set in the rules, and alerts, some of which are about servers that are not there.
OF_NO_SERVER = r"tasuki:\w+:(objective|bytes)|ALERTS"
OF_PROMETHEUS = {"up", "scrape_duration_seconds", "ALERTS"}


def panels(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries():
    """Where a query is, and the query: of panels and of annotations."""
    for name, dashboard in DASHBOARDS.items():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                yield f"{name}: {panel['title']}", target["expr"]
        for mark in dashboard["annotations"]["list"]:
            if "expr" in mark:
                yield f"{name}: {mark['name']}", mark["expr"]


def selectors(query):
    """Name and matchers of each selector in a query: a word that is no function, no label, no keyword."""
    found = re.findall(r"([\w:]+)(\{[^}]*\})", query)
    rest = re.sub(r'"[^"]*"', "", re.sub(r"[\w:]+\{[^}]*\}", "", query))
    rest = re.sub(r"\b(by|on|without|ignoring|group_left)\s*\([^)]*\)", "", rest)
    return found + [(word, "") for word in re.findall(r"(?<![\w:$.])[a-zA-Z_][\w:]*(?![\w:(]| *\()", rest) if word not in ("and", "or", "unless", "bool", "e")
                    and not re.fullmatch(r"[smhd]", word)]


class DashboardsTest(unittest.TestCase):
    def test_they_are_what_the_generator_makes(self):
        made = subprocess.run([sys.executable, GRAFANA / "generate.py", "--check"], capture_output=True, text=True, check=False)
        self.assertEqual(made.returncode, 0, made.stderr)
        self.assertEqual(set(DASHBOARDS), {"overview", "serving", "training", "store-and-host"})

    def test_each_is_provisioned_and_leads_to_the_others(self):
        self.assertEqual(len({dashboard["uid"] for dashboard in DASHBOARDS.values()}), len(DASHBOARDS))
        for name, dashboard in DASHBOARDS.items():
            self.assertEqual(dashboard["uid"], f"tasuki-{name}")
            self.assertIs(dashboard["editable"], False)
            self.assertEqual([link["tags"] for link in dashboard["links"]], [dashboard["tags"]])
            self.assertTrue(dashboard["refresh"] and dashboard["time"]["to"] == "now" and dashboard["description"])
            variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
            self.assertEqual(list(variables)[:3], ["datasource", "job", "instance"])
            for variable in list(variables.values())[1:]:
                self.assertTrue(variable["multi"] and variable["includeAll"] and variable["refresh"] == 2, variable["name"])
            self.assertEqual(variables["instance"]["allValue"], ".+")
            used = set(re.findall(r"\$(\w+)", json.dumps([panel["targets"] for panel in panels(dashboard)])))
            self.assertLessEqual(set(variables) - {"datasource"}, used)

    def test_each_panel_has_title_description_unit_and_place(self):
        for name, dashboard in DASHBOARDS.items():
            taken, ids = set(), [panel["id"] for panel in dashboard["panels"]]
            self.assertEqual(len(set(ids)), len(ids))
            titles = [panel["title"] for panel in panels(dashboard)]
            for panel in panels(dashboard):
                where = f"{name}: {panel['title']}"
                self.assertRegex(panel["title"], r"\w", where)
                self.assertRegex(panel["description"], r"^[A-Z0-9](.|\n){30,}\.$", where)
                self.assertTrue(panel["fieldConfig"]["defaults"]["unit"], where)
                self.assertTrue(panel["targets"], where)
                for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
                    self.assertEqual(source, {"type": "prometheus", "uid": "${datasource}"}, where)
                grid = panel["gridPos"]
                cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
                self.assertFalse(cells & taken or grid["x"] + grid["w"] > 24, where)
                taken |= cells
            self.assertEqual(len(set(titles)), len(titles), f"{name}: two panels have one title")

    def test_every_series_is_of_the_chosen_servers(self):
        for where, query in queries():
            found = selectors(query)
            self.assertTrue(found, where)
            self.assertNotRegex(query, r"(?<!\$)\btraining_job", f"{where}: a label that there is not")
            for metric, matchers in found:
                if not re.fullmatch(OF_NO_SERVER, metric):
                    self.assertIn('job=~"$job"', matchers, f"{where}: {metric} in {query}")
                    self.assertIn('instance=~"$instance"', matchers, f"{where}: {metric} in {query}")

    def test_rates_fit_the_range_that_is_shown(self):
        for where, query in queries():
            for window in re.findall(r"\brate\([^\[]*\[([^\]]*)\]", query):
                self.assertEqual(window, "$__rate_interval", where)
            for before in re.findall(r"(\w*\(?)\w+_total\b", query):
                self.assertIn(before, ("rate(", "increase("), f"{where}: a counter itself")

    def test_every_metric_is_there(self):
        source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "server" / "metrics").glob("*.cc"))
        rules = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"))
        missing = set()
        for _, query in queries():
            for metric, _ in selectors(query):
                name = re.sub("_(bucket|sum|count)$", "", metric)
                there = f"record: {metric}\n" in rules if ":" in metric else metric in OF_PROMETHEUS or f'"{name}"' in source
                missing |= set() if there else {metric}
        self.assertFalse(missing, f"neither in server/metrics nor in deploy/prometheus/rules: {', '.join(sorted(missing))}")


if __name__ == "__main__":
    unittest.main()
