#!/usr/bin/env python3
"""Labels by transformers' logits, to compare with Tasuki's answers.

usage: scores.py MODEL_DIR TASKS.json ROWS PREDICTIONS.jsonl --task NAME --text COLUMN [--rows N]

MODEL_DIR is an exported version or what save_pretrained wrote; TASKS.json holds {"tasks": [...]} with
prefix and target texts (an exported tasuki.json does). ROWS is .tsv or .jsonl; the first N count. A label's
score is the sum, over the nodes of the labels' token trie that branch, of log-softmax over the node's
children. Predictions are one JSON object a line, with `row` (from 1) and `predicted` or `label`. Rows whose two best scores differ by
less than 1e-3 are listed, not counted. The last line also says how many labels change under the
log-likelihood over the full vocabulary. Exits with 1 if a label differs, or if all that agree are one
label: such a model shows little. With --one-label that is told and no failure.

Predictions may hold `probabilities`, by label: then they may be off by 1e-4 at most, at the temperature that
MODEL_DIR/tasuki.json has for the task.

Predictions may also hold `scores`, a list of log p of the task's labels for each precision, as bench-gate
writes them. Then a line for each precision says how far they are off, and it exits with 1 if one is off by
more than its TOLERANCES.
"""
import argparse
import collections
import csv
import json
import pathlib
import sys

import torch
from transformers import AutoModelForSeq2SeqLM, T5Tokenizer

TIE = 1e-3
# Largest |Δ log p| of a row: in fp32 itself, in bf16 and int8 as a share of the spread (standard deviation) of
# log p over all rows and labels. Rounding grows with what is rounded, and a label is lost where a row's margin is
# within it, so the spread is the scale that matters. A mini after 350 steps on AMCD is off by 8e-6,
# .006 and .036 of it.
TOLERANCES = {"fp32": 1e-4, "bf16": 0.03, "int8": 0.1}


def trie_scores(log_probabilities, logits, targets):
    """[(score over children, log-likelihood)] of each label; logits [labels, steps, vocabulary]."""
    children = {}
    for target in targets:
        for i, token in enumerate(target):
            children.setdefault(tuple(target[:i]), set()).add(token)
    scores = []
    for label, target in enumerate(targets):
        score, likelihood = 0.0, 0.0
        for i, token in enumerate(target):
            likelihood += log_probabilities[label, i, token].item()
            options = sorted(children[tuple(target[:i])])
            if len(options) > 1:
                chosen = torch.log_softmax(logits[label, i, options].double(), -1)
                score += chosen[options.index(token)].item()
        scores.append((score, likelihood))
    return scores


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "tasks", "rows", "predictions"):
        parser.add_argument(name)
    parser.add_argument("--task", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--rows", type=int, dest="count")
    parser.add_argument("--one-label", action="store_true")
    arguments = parser.parse_args()

    model = AutoModelForSeq2SeqLM.from_pretrained(arguments.model).float().eval()
    tokenizer = T5Tokenizer.from_pretrained(arguments.model, legacy=True)
    task = next(t for t in json.load(open(arguments.tasks))["tasks"] if t["name"] == arguments.task)
    names = [label["name"] for label in task["labels"]]
    end = tokenizer.eos_token_id
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    targets = [encode(label.get("target_text") or label["name"]) + [end] for label in task["labels"]]
    longest = max(map(len, targets))
    decoder = torch.tensor([([model.config.decoder_start_token_id] + t[:-1] + [0] * longest)[:longest] for t in targets])

    with open(arguments.rows, encoding="utf-8", newline="") as file:
        rows = list(map(json.loads, file) if arguments.rows.endswith(".jsonl") else csv.DictReader(file, delimiter="\t"))[: arguments.count]
    answers, ours, theirs, probabilities = {}, collections.defaultdict(list), [], []
    with open(arguments.predictions, encoding="utf-8") as file:
        for line in list(file)[: arguments.count]:
            answer = json.loads(line)
            answers[int(answer["row"])] = answer.get("predicted") or answer["label"]
            if "probabilities" in answer:
                probabilities.append([answer["probabilities"][name] for name in names])
            for precision, of_labels in answer.get("scores", {}).items():
                ours[precision].append(of_labels)
    if len(answers) != len(rows):
        sys.exit(f"{len(answers)} predictions for {len(rows)} rows")

    same, different, ties, changed = collections.Counter(), 0, 0, 0
    with torch.no_grad():
        for number, row in enumerate(rows, 1):
            ids = encode(task.get("prefix", "") + row[arguments.text])[: arguments.max_tokens - 1] + [end]
            encoded = model.encoder(input_ids=torch.tensor([ids])).last_hidden_state
            logits = model(encoder_outputs=(encoded.expand(len(targets), -1, -1),), decoder_input_ids=decoder).logits
            scores = trie_scores(torch.log_softmax(logits, -1), logits, targets)
            theirs.append([score for score, _ in scores])
            best = max(range(len(names)), key=lambda i: scores[i][0])
            first, second = sorted((s[0] for s in scores), reverse=True)[:2]
            changed += best != max(range(len(names)), key=lambda i: scores[i][1])
            if first - second < TIE:
                ties += 1
                print(f"row {number}: the two best differ by {first - second:.2g}; here {names[best]}, there {answers[number]}")
            elif names[best] == answers[number]:
                same[names[best]] += 1
            else:
                different += 1
                print(f"row {number}: here {names[best]}, there {answers[number]} ({first - second:.4f} apart)")
    theirs = torch.tensor(theirs, dtype=torch.float64)
    spread, far = theirs.std().item(), False
    for precision, of_rows in ours.items():
        off = (torch.tensor(of_rows, dtype=torch.float64) - theirs).abs().max().item()
        most = TOLERANCES[precision] * (1 if precision == "fp32" else spread)
        far |= not off <= most
        print(f"{precision}: log p differs by {off:.2g}, {off / spread:.2g} of its spread of {spread:.3g} (limit {most:.2g})")
    told = ""
    if probabilities:
        manifest = pathlib.Path(arguments.model, "tasuki.json")
        calibrations = json.loads(manifest.read_text()).get("calibrations", []) if manifest.exists() else []
        temperature = next((c["temperature"] for c in calibrations if c["task"] == arguments.task), 1)
        off = (torch.tensor(probabilities, dtype=torch.float64) - (theirs / temperature).softmax(-1)).abs().max().item()
        far |= not off <= TOLERANCES["fp32"]
        told = f"; probabilities differ by {off:.2g}"
    print(f"{len(rows)} rows: {same.total()} the same ({', '.join(f'{name}: {same[name]}' for name in names)}), "
          f"{different} different, {ties} too close to count; {changed} change under the full-vocabulary log-likelihood{told}")
    return different > 0 or (len(same) < 2 and not arguments.one_label) or far


if __name__ == "__main__":
    sys.exit(main())
