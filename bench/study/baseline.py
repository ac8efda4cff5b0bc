"""Majority class and TF-IDF + logistic regression (scikit-learn) on one task's rows.

usage: baseline.py TRAIN TEST --text COLUMN --label COLUMN [--name NAME] [--json]
TSV or CSV by the files' endings, quoted by RFC 4180.
"""

import argparse
import csv
import json

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline


def read(path: str, text: str, label: str) -> tuple[list[str], list[str]]:
    """Texts and labels of a file."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t" if path.endswith(".tsv") else ","))
    return [row[text] for row in rows], [row[label] for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--text", default="text")
    parser.add_argument("--label", default="label")
    parser.add_argument("--name", default="")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    texts, labels = read(arguments.train, arguments.text, arguments.label)
    test_texts, gold = read(arguments.test, arguments.text, arguments.label)

    majority = max(sorted(set(labels)), key=labels.count)
    model = make_pipeline(
        TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True),
        LogisticRegression(max_iter=2000, C=10, class_weight="balanced"),
    )
    model.fit(texts, labels)
    answers = {
        "majority class": [majority] * len(gold),
        "TF-IDF + logistic regression": list(model.predict(test_texts)),
    }
    for name, predicted in answers.items():
        figures = {
            "task": arguments.name,
            "baseline": name,
            "accuracy": round(accuracy_score(gold, predicted), 4),
            "macro_f1": round(f1_score(gold, predicted, average="macro", zero_division=0), 4),
        }
        if arguments.json:
            print(json.dumps(figures, ensure_ascii=False))
        else:
            print("{task:16} {baseline:30} accuracy {accuracy:.4f}  macro F1 {macro_f1:.4f}".format(**figures))


if __name__ == "__main__":
    main()
