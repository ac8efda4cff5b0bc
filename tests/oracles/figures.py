#!/usr/bin/env python3
"""Writes what scikit-learn computes from random answers, for tests/model/text/figures_oracle_test.cc.

usage: figures.py --count N > FILE

One JSON object a line: gold and predicted (numbers below `classes`, or strings if `classes` is 0),
and the figures. Among them: classes that occur nowhere, one class only, all wrong, one row.
"""
import argparse
import json
import random
import warnings

from sklearn.metrics import accuracy_score, precision_recall_fscore_support

warnings.filterwarnings("ignore")


def figures(gold, predicted, labels, majority_labels):
    result = {"accuracy": accuracy_score(gold, predicted)}
    for average in ("macro", "micro"):
        p, r, f, _ = precision_recall_fscore_support(gold, predicted, labels=labels, average=average, zero_division=0)
        result |= {f"{average}_precision": p, f"{average}_recall": r, f"{average}_f1": f}
    answers = [max(labels, key=gold.count)] * len(gold)
    result["majority_accuracy"] = accuracy_score(gold, answers)
    result["majority_macro_f1"] = precision_recall_fscore_support(
        gold, answers, labels=majority_labels, average="macro", zero_division=0)[2]
    return {key: float(value) for key, value in result.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    count = parser.parse_args().count
    draw = random.Random(12)
    for i in range(count):
        classes = draw.randint(2, 12)
        rows = 1 if i % 50 == 0 else draw.randint(1, 200)
        used = draw.sample(range(classes), draw.randint(1, classes))  # the others are absent
        gold = draw.choices(used, k=rows)
        kind = i % 5
        if kind == 0:  # all wrong
            predicted = [(g + draw.randint(1, classes - 1)) % classes for g in gold]
        elif kind == 1:  # one answer for everything
            predicted = [draw.randrange(classes)] * rows
        elif kind == 2:  # mostly right
            predicted = [g if draw.random() < .8 else draw.randrange(classes) for g in gold]
        else:
            predicted = draw.choices(range(classes), k=rows)
        if kind == 4:  # strings; some are no label
            gold = [f"label {g}" for g in gold]
            predicted = [f"label {p}" if draw.random() < .9 else draw.choice(["", "lab", "label"]) for p in predicted]
            # The strings that occur; a constant answer brings none of its own.
            labels, majority_labels, classes = sorted(set(gold) | set(predicted)), sorted(set(gold)), 0
        else:
            labels = majority_labels = list(range(classes))
        print(json.dumps({"classes": classes, "gold": gold, "predicted": predicted,
                          "figures": figures(gold, predicted, labels, majority_labels)}))


if __name__ == "__main__":
    main()
