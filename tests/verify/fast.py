"""Figures of a file that `script/bench --out` wrote, against what is wanted of them; used by fast.bash.

Prints the figures and exits with 1 if one is not as wanted. A ratio is the median over the rounds, each of which had ours and
the peer in turns; the peer is the one with the best median.

usage: fast.py RESULTS share PRECISION LEAST             bulk classification's share of the peak, on both tasks
       fast.py RESULTS bulk PRECISION LEAST LEAST        texts a second over the best peer's, AMCD and MARC
       fast.py RESULTS alone PRECISION LEAST LEAST       the best peer's p50 over ours
       fast.py RESULTS served LEAST                      16 callers of 32 texts over bulk in one process
       fast.py RESULTS step PRECISION WAY=LEAST…         real input tokens a second over transformers'
       fast.py RESULTS step-share LEAST                  share of the peak in a step without the optimizer
       fast.py RESULTS memory MOST                       of a step, above weights, gradients and moments, over transformers' padded to 512
"""

import json
import statistics
import sys
from pathlib import Path

file, what, *wanted = sys.argv[1:]
if not Path(file).is_file():
    sys.exit("not measured")
results = json.loads(Path(file).read_text())["results"]
good = True


def values(name, figure):
    return [result[figure] for result in results.get(name, [])]


def ratio(above, below):
    """Of two lists with an entry a round; of medians if one of them had fewer turns."""
    if not above or not below:
        sys.exit("not measured")
    if len(above) == len(below):
        return statistics.median(a / b for a, b in zip(above, below))
    return statistics.median(above) / statistics.median(below)


def say(name, figure, least=None, most=None, format=".2f"):
    global good
    good &= (least is None or figure >= float(least)) and (most is None or figure <= float(most))
    limit = f" (>= {least})" if least is not None else f" (<= {most})" if most is not None else ""
    said.append(f"{name} {figure:{format}}{limit}")


def peers(task, precision):
    known = {"fp32": ("-fp32", "-float32"), "bf16": ("-bf16",), "int8": ("-int8",)}[precision]
    return [name for name in results if name.startswith(f"classify {task} ") and name.endswith(known)]


said = []
if what == "share":
    precision, least = wanted
    for task in ("amcd", "marc"):
        shares = values(f"classify {task} {precision}", "share_of_peak") or sys.exit("not measured")
        say(task.upper(), statistics.median(shares), least, format=".3f")
elif what in ("bulk", "alone"):
    precision, *leasts = wanted
    for task, least in zip(("amcd", "marc"), leasts):
        ours, figure = f"classify {task} {precision}", "texts_per_second" if what == "bulk" else "p50_ms"
        best = (max if what == "bulk" else min)(peers(task, precision), key=lambda name: statistics.median(values(name, figure)), default="")
        pair = values(ours, figure), values(best, figure)
        say(f"{task.upper()} against {best.split()[-1] if best else 'nobody'}", ratio(*(pair if what == "bulk" else pair[::-1])), least)
elif what == "served":
    for name in [name for name in results if name.startswith("serve")] or sys.exit("not measured"):
        _, task, precision, load = name.split()
        say(f"{precision} {load}", ratio(values(name, "texts_per_second"), values(f"bulk {task} {precision}", "texts_per_second")),
            wanted[0] if load == "16x32" else None)
elif what == "step":
    precision, *ways = wanted
    for way, least in (way.split("=") for way in ways):
        say(way, ratio(values(f"train {precision}", "tokens_per_second"), values(f"train {way}-{precision}", "tokens_per_second")), least)
elif what == "step-share":
    say("of the peak", statistics.median(values("train fp32", "share_of_peak_without_optimizer") or sys.exit("not measured")), wanted[0], format=".3f")
elif what == "memory":
    ours = values("train fp32", "memory_above_mib")
    for way, most in (("limit", wanted[0]), ("longest", None)):
        theirs = values(f"train {way}-fp32", "memory_above_mib")
        say(f"against {way}", max(ours) / max(theirs) if ours and theirs else sys.exit("not measured"), most=most)
    said.append(f"{max(ours)} MiB")
else:
    sys.exit(__doc__)
print(", ".join(said))
sys.exit(not good)
