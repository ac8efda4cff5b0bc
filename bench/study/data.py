"""Splits MARC-ja's one file into train, valid and test, stratified, with a fixed seed.

usage: data.py DATA OUT   reads DATA/marc_ja.csv (text,label,…), writes OUT/marc_{train,valid,test}.csv
and OUT/texts.jsonl with the training texts of both tasks, for pre-training.
"""

import csv
import json
import pathlib
import random
import sys

SEED = 12
SHARES = {"valid": 0.1, "test": 0.2}


def split(rows: list[dict]) -> dict[str, list[dict]]:
    """Rows by split, each label in its share of every split; the rest is train."""
    generator = random.Random(SEED)
    splits: dict[str, list[dict]] = {"train": [], "valid": [], "test": []}
    for label in sorted({row["label"] for row in rows}):
        members = [row for row in rows if row["label"] == label]
        generator.shuffle(members)
        for name, share in SHARES.items():
            count = round(len(members) * share)
            splits[name] += members[:count]
            members = members[count:]
        splits["train"] += members
    for members in splits.values():
        generator.shuffle(members)
    return splits


def main() -> None:
    data, out = map(pathlib.Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    with (data / "marc_ja.csv").open(encoding="utf-8", newline="") as file:
        splits = split(list(csv.DictReader(file)))
    for name, rows in splits.items():
        with (out / f"marc_{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        print(f"marc_{name}.csv: {len(rows)} rows")
    with (data / "amcd_train.tsv").open(encoding="utf-8", newline="") as file:
        texts = [row["sentence"] for row in csv.DictReader(file, delimiter="\t")]
    texts += [row["text"] for row in splits["train"]]
    with (out / "texts.jsonl").open("w", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    print(f"texts.jsonl: {len(texts)} training texts")


if __name__ == "__main__":
    main()
