#!/usr/bin/env python3
"""Asks a Prometheus every query of the dashboards in deploy/grafana, and draws them.

Prints a line a panel: title, number of series that have values, last value. Exits with 1 if a query fails, a variable has no
values, or a panel without data is not one that may have none: its description says "Needs a GPU." or the like (NEEDS in
deploy/grafana/generate.py). Draws every panel by its type, laid out as Grafana does; wants matplotlib for that.
"""

import argparse
import datetime
import json
import math
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy" / "grafana"))
sys.dont_write_bytecode = True
from generate import NEEDS  # noqa: E402


def seconds(text):
    """15s, 30m, 6h, 3d."""
    return float(text[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[text[-1]]


def literal(text):
    """As a regular expression within a string of PromQL."""
    return re.escape(text).replace("\\", "\\\\")


class Prometheus:
    def __init__(self, url):
        self.url = url.rstrip("/")

    def get(self, path, **parameters):
        body = urllib.parse.urlencode(parameters, doseq=True).encode()
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}", body, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error).get("error", str(error))) from error
        except OSError as error:
            sys.exit(f"{self.url} does not answer: {error}")

    def range(self, query, begin, end, step):
        """Labels, times and values of each series; without what is not a number."""
        found = self.get("query_range", query=query, start=begin, end=end, step=step)["result"]
        return [series for series in (Series(entry["metric"], entry["values"]) for entry in found) if series.points]

    def instant(self, query, at):
        found = self.get("query", query=query, time=at)
        if found["resultType"] == "scalar":
            return [Series({}, [found["result"]])]
        return [series for series in (Series(entry["metric"], [entry["value"]]) for entry in found["result"]) if series.points]


class Series:
    def __init__(self, labels, points):
        self.labels = {name: value for name, value in labels.items() if name != "__name__"}
        self.points = [(float(at), float(value)) for at, value in points if not math.isnan(float(value))]
        self.name = ""

    @property
    def last(self):
        return self.points[-1][1]


class View:
    """A dashboard as somebody sees it: a range of time, and what its variables stand for."""

    def __init__(self, prometheus, dashboard, begin, end, scrape, chosen):
        self.prometheus, self.begin, self.end = prometheus, begin, end
        step = max(scrape, (end - begin) / 200)
        self.step = math.ceil(step)
        self.values = {"__rate_interval": f"{math.ceil(max(self.step + scrape, 4 * scrape))}s", "__interval": f"{self.step}s",
                       "__range": f"{int(end - begin)}s", "__range_s": str(int(end - begin))}
        self.empty = []
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                self.choose(variable, chosen.get(variable["name"]))

    def choose(self, variable, chosen):
        selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", self.fill(variable["query"]["query"])).groups()
        found = self.prometheus.get("series", **{"match[]": selector, "start": self.begin, "end": self.end})
        names = sorted({entry[label] for entry in found if label in entry})
        if not names:
            self.empty.append(variable["name"])
        self.values[variable["name"]] = literal(chosen) if chosen else variable["allValue"] or f"({'|'.join(map(literal, names))})"

    def fill(self, text):
        return re.sub(r"\$(\w+)", lambda match: self.values.get(match[1], match[0]), text)

    def ask(self, panel):
        """Series of each target, named by its legend."""
        answers = []
        for target in panel["targets"]:
            text = self.fill(target["expr"])
            found = self.prometheus.instant(text, self.end) if target["instant"] else self.prometheus.range(text, self.begin, self.end, self.step)
            for series in found:
                series.name = re.sub(r"{{(\w+)}}", lambda match: series.labels.get(match[1], ""), target["legendFormat"]) or str(series.labels)
            answers.append(found)
        return answers

    def marks(self, annotation):
        """The times of an annotation, one for each time that it begins."""
        step, times = seconds(annotation["step"]), []
        for series in self.prometheus.range(self.fill(annotation["expr"]), self.begin, self.end, max(self.step, 1)):
            found = [value / 1000 if annotation.get("useValueForTime") else at for at, value in series.points if value > 0]
            times += [at for before, at in zip([-math.inf, *found], found) if at - before > step and self.begin <= at <= self.end]
        return times


# --- Drawing ------------------------------------------------------------------------------------------------------------------------

PALETTE = ["#73BF69", "#F2CC0C", "#8AB8FF", "#FF780A", "#F2495C", "#5794F2", "#B877D9", "#705DA0", "#37872D", "#FADE2A", "#447EBC", "#C15C17", "#890F02",
     "#0A437C"]
COLORS = {"green": "#73BF69", "yellow": "#FADE2A", "orange": "#FF9830", "red": "#F2495C", "blue": "#5794F2", "light-blue": "#8AB8FF", "purple": "#B877D9",
     "dark-orange": "#FA6400", "dark-red": "#C4162A",
          "text": "#CCCCDC", "transparent": "#00000000"}
PAGE, PANEL, TEXT, DIM, GRID = "#111217", "#181B1F", "#CCCCDC", "#8E8E99", "#2C2F35"
CELL_W, CELL_H, GAP = 79, 38, 8  # pixels of a column and row of Grafana's grid on a screen of 1920


def scaled(value, units, base):
    i = 0
    while abs(value) >= base and i + 1 < len(units):
        value, i = value / base, i + 1
    return value, units[i]


def show(value, unit, decimals=None):
    """A value as Grafana writes it, nearly."""
    def number(x, most=2):
        if decimals is not None:
            return f"{x:.{decimals}f}"
        if x != 0 and abs(x) < 10 ** -most:
            return f"{x:.3g}"
        return f"{x:.{0 if abs(x) >= 100 else 1 if abs(x) >= 10 else most}f}".rstrip("0").rstrip(".") if "." in f"{x:.{most}f}" and abs(x) < 100 else f"{x:.0f}"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if unit == "percentunit":
        return number(value * 100) + "%"
    if unit == "bytes":
        value, suffix = scaled(value, [" B", " KiB", " MiB", " GiB", " TiB"], 1024)
        return number(value) + suffix
    if unit == "s":
        if abs(value) < 1:
            return number(value * 1e6) + " µs" if 0 < abs(value) < 1e-3 else number(value * 1e3) + " ms" if value else "0 s"
        for size, suffix in ((31536000, " years"), (604800, " weeks"), (86400, " days"), (3600, " hours"), (60, " mins")):
            if abs(value) >= size:
                return number(value / size) + suffix
        return number(value) + " s"
    if unit == "short":
        value, suffix = scaled(value, ["", " K", " Mil", " Bil"], 1000)
        return number(value) + suffix
    if unit == "sci":
        return f"{value:.{decimals if decimals is not None else 2}e}"
    return number(value) + {"reqps": " req/s", "ops": " ops/s", "watt": " W"}.get(unit, "")


class Style:
    """What one series or column of a panel looks like: the panel's defaults, and its overrides."""

    def __init__(self, panel, name):
        self.values = {**panel["fieldConfig"]["defaults"]}
        self.custom = {**self.values["custom"]}
        for override in panel["fieldConfig"]["overrides"]:
            wanted = override["matcher"]["options"]
            if re.search(wanted.strip("/"), name) if override["matcher"]["id"] == "byRegexp" else wanted == name:
                for entry in override["properties"]:
                    (self.custom if entry["id"].startswith("custom.") else self.values)[entry["id"].replace("custom.", "")] = entry["value"]

    def text(self, value):
        for mapping in self.values["mappings"]:
            if f"{value:g}" in mapping["options"]:
                return mapping["options"][f"{value:g}"]["text"]
        return show(value, self.values["unit"], self.values.get("decimals"))

    def threshold(self, value):
        for mapping in self.values["mappings"]:
            if f"{value:g}" in mapping["options"]:
                return COLORS[mapping["options"][f"{value:g}"]["color"]]
        color = "text"
        for entry in self.values["thresholds"]["steps"]:
            if entry["value"] is None or value >= entry["value"]:
                color = entry["color"]
        return COLORS[color]

    def color(self, i):
        fixed = self.values["color"]
        return COLORS[fixed["fixedColor"]] if fixed["mode"] == "fixed" else PALETTE[i % len(PALETTE)]


class Drawing:
    def __init__(self, view, dashboard, answers, marks):
        import matplotlib
        matplotlib.use("Agg")
        from matplotlib import pyplot
        self.plt, self.view, self.dashboard, self.answers, self.marks = pyplot, view, dashboard, answers, marks
        self.height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"]) * CELL_H + 60
        self.width = 24 * CELL_W + GAP
        self.figure = pyplot.figure(figsize=(self.width / 100, self.height / 100), dpi=100, facecolor=PAGE)
        pyplot.rcParams.update({"font.family": "DejaVu Sans", "font.size": 8, "text.color": TEXT, "axes.edgecolor": GRID, "xtick.color": DIM,
             "ytick.color": DIM, "axes.unicode_minus": False})

    def box(self, x, y, w, h, **more):
        """Axes over a rectangle of pixels, counted from the top left corner."""
        return self.figure.add_axes((x / self.width, 1 - (y + h) / self.height, w / self.width, h / self.height), **more)

    def write(self, x, y, text, size=8, color=TEXT, ha="left", va="center", weight="normal", alpha=1):
        self.figure.text(x / self.width, 1 - y / self.height, text.replace("$", r"\$"), fontsize=size, color=color, ha=ha, va=va, weight=weight, alpha=alpha)

    def save(self, path):
        until = datetime.datetime.fromtimestamp(self.view.end)
        self.write(GAP, 24, self.dashboard["title"], 14, weight="bold")
        self.write(GAP + 330, 25, self.dashboard["description"], 9, DIM)
        self.write(self.width - GAP, 25, f"{(self.view.end - self.view.begin) / 60:.0f} minutes until {until:%Y-%m-%d %H:%M:%S}", 9, DIM, ha="right")
        for panel in self.dashboard["panels"]:
            grid = panel["gridPos"]
            x, y, w, h = grid["x"] * CELL_W + GAP, grid["y"] * CELL_H + 52, grid["w"] * CELL_W - GAP, grid["h"] * CELL_H - GAP
            if panel["type"] == "row":
                self.write(x + 4, y + h / 2, "v  " + panel["title"], 10, weight="bold")
                continue
            back = self.box(x, y, w, h, facecolor=PANEL, xticks=[], yticks=[])
            for side in back.spines.values():
                side.set_color(GRID)
            self.write(x + 8, y + 13, panel["title"], 9 if grid["w"] > 3 else 8, weight="bold")
            answers = self.answers[panel["id"]]
            if not any(answers) and panel["type"] != "stat":
                self.write(x + w / 2, y + h / 2, panel["fieldConfig"]["defaults"].get("noValue", "No data"), 11, DIM, ha="center")
                continue
            getattr(self, panel["type"].replace("-", "_"))(panel, answers, x, y + 24, w, h - 24)
        self.figure.savefig(path, facecolor=PAGE)
        self.plt.close(self.figure)

    def stat(self, panel, answers, x, y, w, h):
        style, found = Style(panel, panel["title"]), answers[0]
        if not found:
            self.write(x + w / 2, y + h / 2 - 4, style.values.get("noValue", "No data"), 13, DIM, ha="center")
            return
        series, options = found[0], panel["options"]
        color = style.threshold(series.last)
        text = series.name if options["textMode"] == "name" else style.text(series.last)
        if options["colorMode"] == "background":
            self.box(x + 1, y - 23, w - 2, h + 22, facecolor=color, xticks=[], yticks=[]).set_zorder(0)
            self.write(x + 8, y - 11, panel["title"], 8, "#111217", weight="bold")
            self.write(x + w / 2, y + h / 2 - 6, text, 19, "#111217", ha="center", weight="bold")
            return
        if options["graphMode"] == "area" and len(series.points) > 1:
            axes = self.box(x + 2, y + h * 0.62, w - 4, h * 0.36 - 2)
            axes.set_axis_off()
            times, values = zip(*series.points)
            axes.fill_between(times, values, min(0, *values), color=color, alpha=0.25, linewidth=0)
            axes.plot(times, values, color=color, linewidth=1)
            axes.set_xlim(self.view.begin, self.view.end)
        self.write(x + w / 2, y + h * 0.36, text, 19 if h > 90 else 16, color, ha="center", weight="bold")

    def ticks(self, axes, unit):
        axes.set_facecolor(PANEL)
        axes.grid(True, color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, labelsize=7, pad=2)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.set_xlim(self.view.begin, self.view.end)
        span = self.view.end - self.view.begin
        step = next(step for step in (15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400) if span / step <= 7)
        at = [t for t in range(int(self.view.begin // step * step), int(self.view.end) + 1, step) if t >= self.view.begin]
        axes.set_xticks(at, [f"{datetime.datetime.fromtimestamp(t):{'%H:%M:%S' if step < 60 else '%H:%M'}}" for t in at])
        if unit is not None:
            axes.yaxis.set_major_formatter(lambda value, _: show(value, unit))
            if axes.get_yscale() == "linear":
                axes.yaxis.set_major_locator(self.plt.MaxNLocator(5))

    def timeseries(self, panel, answers, x, y, w, h):
        found = [series for answer in answers for series in answer]
        shown = min(len(found), 5 if h > 200 else 3)
        below = 16 * (shown + 1) + 6
        axes = self.box(x + 62, y + 4, w - 74, h - below - 26)
        defaults = panel["fieldConfig"]["defaults"]
        if defaults["custom"].get("scaleDistribution", {}).get("type") == "log":
            axes.set_yscale("log")
        base = {}
        for i, series in enumerate(found):
            style = Style(panel, series.name)
            color, custom = style.color(i), style.custom
            points = []
            for at, value in series.points:  # a gap where there was nothing
                if points and at - points[-1][0] > 1.5 * self.view.step:
                    points.append((at - self.view.step / 2, math.nan))
                points.append((at, value))
            times, values = zip(*points)
            bottom = [0.0] * len(values)
            if custom["stacking"]["mode"] != "none":
                bottom = [base.get(at, 0) for at in times]
                values = [value + low for value, low in zip(values, bottom)]
                base.update({at: value for at, value in zip(times, values) if not math.isnan(value)})
            dash = custom.get("lineStyle", {}).get("fill") == "dash"
            axes.plot(times, values, color=color, linewidth=1.2, linestyle="--" if dash else "-", marker="o" if len(series.points) < 4 else None, markersize=3)
            if custom["fillOpacity"] and axes.get_yscale() == "linear":
                axes.fill_between(times, values, bottom, color=color, alpha=custom["fillOpacity"] / 100 * 0.8, linewidth=0)
        low, high = axes.get_ylim()
        if axes.get_yscale() == "linear":
            low, high = defaults.get("min", low), defaults.get("max", high)
            if defaults["custom"]["thresholdsStyle"]["mode"] != "off":
                for entry in defaults["thresholds"]["steps"][1:]:
                    if entry["value"] <= high * 1.2 + 1:
                        axes.axhline(entry["value"], color=COLORS[entry["color"]], linewidth=0.8, linestyle=(0, (6, 4)))
                        high = max(high, entry["value"] * 1.1)
            axes.set_ylim(low, high if high > low else low + 1)
        self.ticks(axes, defaults["unit"])
        for color, times in self.marks:
            for at in times:
                axes.axvline(at, color=COLORS[color], linewidth=0.8, linestyle=":", alpha=0.9)
        calcs = panel["options"]["legend"]["calcs"]
        top = y + h - below
        for j, calc in enumerate(reversed(calcs)):
            self.write(x + w - 12 - 78 * j, top + 4, {"lastNotNull": "last"}.get(calc, calc), 7, "#5794F2", ha="right")
        for i, series in enumerate(found[:shown]):
            style = Style(panel, series.name)
            row = top + 16 * (i + 1) + 4
            self.write(x + 10, row, "—", 9, style.color(i), weight="bold")
            more = f"   (+ {len(found) - shown} more)" if i + 1 == shown < len(found) else ""
            self.write(x + 26, row, series.name[:int(w / 6.2) - 13 * len(calcs)] + more, 7.5)
            values = [value for _, value in series.points]
            for j, calc in enumerate(reversed(calcs)):
                value = {"mean": sum(values) / len(values), "max": max(values), "min": min(values), "lastNotNull": values[-1]}[calc]
                self.write(x + w - 12 - 78 * j, row, style.text(value), 7.5, ha="right")

    def heatmap(self, panel, answers, x, y, w, h):
        found = sorted(answers[0], key=lambda series: float(series.labels["le"]))
        axes = self.box(x + 62, y + 4, w - 74, h - 30)
        times = sorted({at for series in found for at, _ in series.points})
        before, rows = {}, []
        for series in found:
            now = dict(series.points)
            rows.append([max(0, now.get(at, 0) - before.get(at, 0)) or math.nan for at in times])
            before = now
        if len(times) > 1:
            axes.pcolormesh([at - self.view.step / 2 for at in times] + [times[-1] + self.view.step / 2], range(len(rows) + 1),
                 [[cell ** 0.5 for cell in row] for row in rows], cmap="inferno",
                            vmin=-1)
        self.ticks(axes, None)
        unit = panel["options"]["yAxis"]["unit"]
        axes.set_yticks([i + 1 for i in range(len(found))][::2], [show(float(series.labels["le"]), unit) for series in found][::2])

    def bargauge(self, panel, answers, x, y, w, h):
        found = [series for answer in answers for series in answer]
        top, step = max([series.last for series in found] + [1]), min(40, (h - 8) / len(found))
        for i, series in enumerate(found):
            style = Style(panel, series.name)
            row, color = y + 4 + step * i, style.threshold(series.last)
            self.write(x + w * 0.36, row + step / 2, series.name, 8, ha="right")
            self.box(x + w * 0.38, row + 3, w * 0.52, step - 6, facecolor="#22252B", xticks=[], yticks=[]).set_frame_on(True)
            if series.last > 0:
                self.box(x + w * 0.38, row + 3, max(2, w * 0.52 * series.last / top), step - 6, facecolor=color, xticks=[], yticks=[])
            self.write(x + w * 0.92, row + step / 2, style.text(series.last), 9, color, weight="bold")

    def rows(self, panel, answers):
        """Rows of a table as Grafana's merge and organize make them."""
        rows = []
        for target, found in zip(panel["targets"], answers):
            value = f"Value #{target['refId']}" if len(answers) > 1 else "Value"
            for series in found:
                row = next((row for row in rows if all(row.get(key, text) == text for key,
                     text in series.labels.items()) and set(row) & set(series.labels) and value not in row), None)
                if row is None:
                    rows.append(row := {})
                row.update({**series.labels, value: series.last})
        options = panel["transformations"][1]["options"]
        columns = [name for name in options["indexByName"] if not options["excludeByName"].get(name)]
        return [(name, options["renameByName"][name]) for name in columns], rows

    def table(self, panel, answers, x, y, w, h):
        columns, rows = self.rows(panel, answers)
        wide = (w - 16) / (len(columns) + 0.7)
        left = [x + 10 + wide * (j + 0.7 * (j > 0)) for j in range(len(columns))]
        rows.sort(key=lambda row: str(row.get(columns[0][0])))
        for j, (source, name) in enumerate(columns):
            self.write(left[j], y + 10, name, 8, "#5794F2", weight="bold")
            for i, row in enumerate(rows[:int(h / 26) - 1]):
                value, style, at = row.get(source), Style(panel, name), y + 36 + 26 * i
                kind = style.custom.get("cellOptions", {}).get("type")
                if kind == "gauge" and value is not None:
                    self.box(left[j], at - 8, wide * 0.6, 16, facecolor="#22252B", xticks=[], yticks=[])
                    self.box(left[j], at - 8, max(1, wide * 0.6 * min(1, value)), 16, facecolor=style.threshold(value), xticks=[], yticks=[])
                text = style.values.get("noValue", "") if value is None else style.text(value) if isinstance(value, float) else value
                self.write(left[j] + (wide * 0.64 if kind == "gauge" else 0), at, text, 8.5,
                     style.threshold(value) if kind == "color-text" and value is not None else TEXT)

    def state_timeline(self, panel, answers, x, y, w, h):
        found = answers[0]
        axes = self.box(x + 150, y + 4, w - 162, h - 30)
        for i, series in enumerate(found):
            style = Style(panel, series.name)
            for (at, value), (then, _) in zip(series.points, series.points[1:] + [(series.points[-1][0] + self.view.step, 0)]):
                axes.barh(i, min(then - at, 1.5 * self.view.step), left=at, height=0.7, color=style.threshold(value), linewidth=0)
        axes.set_ylim(len(found) - 0.5, -0.5)
        self.ticks(axes, None)
        axes.set_yticks(range(len(found)), [series.name for series in found])


# --- The work -----------------------------------------------------------------------------------------------------------------------

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prometheus", metavar="URL", help="a Prometheus, such as http://127.0.0.1:9090")
    parser.add_argument("--end", type=float, default=time.time(), help="end of the range, seconds since 1970 (default: now)")
    parser.add_argument("--range", type=seconds, default=900, help="length of the range, such as 15m or 6h (default: 15m)")
    parser.add_argument("--scrape-interval", type=seconds, default=15, help="how often that Prometheus scrapes (default: 15s)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="chooses one value of a variable (default: all)")
    parser.add_argument("--draw", type=Path, metavar="DIRECTORY", help="draws each dashboard as DIRECTORY/NAME.png")
    parser.add_argument("--dashboards", type=Path, default=ROOT / "deploy" / "grafana" / "dashboards")
    arguments = parser.parse_args()
    prometheus, faults, count, without = Prometheus(arguments.prometheus), 0, 0, 0
    for path in sorted(arguments.dashboards.glob("*.json")):
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        view = View(prometheus, dashboard, arguments.end - arguments.range, arguments.end, arguments.scrape_interval, dict(entry.split("=",
             1) for entry in arguments.set))
        for name in view.empty:
            faults += 1
            print(f"MISS   {path.stem}: variable {name}: no values")
        marks = []
        for annotation in dashboard["annotations"]["list"]:
            if "expr" not in annotation:
                continue
            try:
                times = view.marks(annotation)
                print(f"mark   {path.stem}: {annotation['name']}: {len(times)}")
                marks += [(annotation["iconColor"], times)] if annotation["enable"] else []
            except ValueError as error:
                faults += 1
                print(f"MISS   {path.stem}: mark {annotation['name']}: {error}")
        answers = {}
        for panel in dashboard["panels"]:
            if panel["type"] == "row":
                continue
            count += 1
            where, needs = f"{path.stem}: {panel['title']}", next((text for text in NEEDS if panel["description"].endswith(text)), None)
            try:
                answers[panel["id"]] = found = view.ask(panel)
            except ValueError as error:
                faults += 1
                answers[panel["id"]] = [[] for _ in panel["targets"]]
                print(f"MISS   {where}: {error}")
                continue
            names = [target["refId"] for target, answer in zip(panel["targets"], found) if not answer]
            if not names:
                style = Style(panel, found[0][0].name)
                print(f"ok     {where}: {sum(map(len, found))} series, last {style.text(found[0][-1].last)}")
            elif needs:
                without += 1
                print(f"empty  {where}: {needs}")
            else:
                faults += 1
                print(f"MISS   {where}: no data for {', '.join(names)} of {len(found)}")
        if arguments.draw:
            arguments.draw.mkdir(parents=True, exist_ok=True)
            Drawing(view, dashboard, answers, marks).save(arguments.draw / f"{path.stem}.png")
    print(f"{count} panels: {count - without - faults} with data, {without} that may be empty, {faults} missed")
    sys.exit(faults != 0)


if __name__ == "__main__":
    main()
