#!/usr/bin/env python3
"""Repeats with transformers and torch.optim.AdamW the steps that loss_curve took, and compares.

usage: loss_curve.py BASE_DIRECTORY STEPS.safetensors [--limit .001]
"""
import argparse
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM


def padded(flat, lengths, value):
    rows, begin = [], 0
    for length in lengths.long().tolist():
        rows.append(flat[begin : begin + length].long())
        begin += length
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("steps")
    parser.add_argument("--limit", type=float, default=1e-3)
    arguments = parser.parse_args()
    model = AutoModelForSeq2SeqLM.from_pretrained(arguments.base, dropout_rate=0.0).float().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.0)
    ours = load_file(arguments.steps)
    worst, theirs = 0.0, []
    for step, loss in enumerate(ours["losses"].tolist()):
        inputs = padded(ours[f"{step}.input_ids"], ours[f"{step}.input_lengths"], 0)
        lengths = ours[f"{step}.input_lengths"].long()
        mask = (torch.arange(inputs.shape[1])[None] < lengths[:, None]).long()
        labels = padded(ours[f"{step}.target_ids"], ours[f"{step}.target_lengths"], -100)
        optimizer.zero_grad()
        output = model(input_ids=inputs, attention_mask=mask, labels=labels)
        output.loss.backward()
        optimizer.step()
        theirs.append(output.loss.item())
        worst = max(worst, abs(theirs[-1] - loss))
    print(f"{len(theirs)} steps: loss {theirs[0]:.4f} to {theirs[-1]:.4f}, largest difference {worst:.2g} (limit {arguments.limit})")
    return worst > arguments.limit


if __name__ == "__main__":
    sys.exit(main())
