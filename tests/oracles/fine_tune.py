#!/usr/bin/env python3
"""Fine-tunes a T5 with transformers and saves it, for Tasuki to import.

usage: fine_tune.py BASE_DIR ROWS.tsv OUT_DIR --text COLUMN --label COLUMN [--steps N]

Target texts are the label values; Adafactor from 1e-2 to 0 with parameter scaling, no dropout. A batch is
32 rows, as many of each label: few steps would else teach to answer the commonest label alone.
"""
import argparse
import csv
import pathlib
import random
import shutil

import torch
from transformers import AutoModelForSeq2SeqLM, T5Tokenizer
from transformers.optimization import Adafactor


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "rows", "out"):
        parser.add_argument(name)
    parser.add_argument("--text", required=True)
    parser.add_argument("--label", required=True)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()

    torch.manual_seed(12)
    model = AutoModelForSeq2SeqLM.from_pretrained(arguments.base, dropout_rate=0.0).float().train()
    tokenizer = T5Tokenizer.from_pretrained(arguments.base, legacy=True)
    with open(arguments.rows, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    values = sorted({row[arguments.label] for row in rows})
    by_label = [[row for row in rows if row[arguments.label] == value] for value in values]
    optimizer = Adafactor(model.parameters(), lr=1e-2, scale_parameter=True, relative_step=False, warmup_init=False)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, arguments.steps)
    draw = random.Random(12)
    total = 0.0
    for step in range(1, arguments.steps + 1):
        batch = [row for same in by_label for row in draw.sample(same, 32 // len(by_label))]
        inputs = tokenizer([r[arguments.text] for r in batch], padding=True, truncation=True, max_length=512, return_tensors="pt")
        targets = tokenizer([r[arguments.label] for r in batch], padding=True, return_tensors="pt").input_ids
        targets[targets == tokenizer.pad_token_id] = -100
        loss = model(**inputs, labels=targets).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item()
        if step % 50 == 0:
            print(f"step {step}: loss {total / 50:.4f}")
            total = 0.0
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    model_file = pathlib.Path(arguments.out) / "spiece.model"
    if not model_file.exists():
        shutil.copy(pathlib.Path(arguments.base) / "spiece.model", model_file)


if __name__ == "__main__":
    main()
