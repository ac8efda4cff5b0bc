#!/usr/bin/env python3
"""Repeats with transformers and torch.optim.AdamW the steps that loss_curve took, and compares.

usage: loss_curve.py BASE_DIRECTORY STEPS.safetensors [--limit .001]

AdamW divides a gradient by its own size, so where a gradient is nearly 0 its rounding becomes a whole
step: two exact implementations in fp32 drift apart, transformers from itself too. If fp32 against
fp32 exceeds the limit, transformers does the steps again in double precision, which takes its rounding
out of the comparison, and ours must be within the limit of that.
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


def losses(base, steps, dtype):
    model = AutoModelForSeq2SeqLM.from_pretrained(base, dropout_rate=0.0).to(dtype).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.0)
    for step in range(len(steps["losses"])):
        inputs = padded(steps[f"{step}.input_ids"], steps[f"{step}.input_lengths"], 0)
        lengths = steps[f"{step}.input_lengths"].long()
        mask = (torch.arange(inputs.shape[1])[None] < lengths[:, None]).long()
        labels = padded(steps[f"{step}.target_ids"], steps[f"{step}.target_lengths"], -100)
        optimizer.zero_grad()
        output = model(input_ids=inputs, attention_mask=mask, labels=labels)
        output.loss.backward()
        optimizer.step()
        yield output.loss.item()


def largest_difference(some, others):
    return max(abs(one - other) for one, other in zip(some, others, strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("steps")
    parser.add_argument("--limit", type=float, default=1e-3)
    arguments = parser.parse_args()
    steps = load_file(arguments.steps)
    ours = steps["losses"].tolist()
    theirs = list(losses(arguments.base, steps, torch.float32))
    worst = largest_difference(ours, theirs)
    told = f"{len(theirs)} steps: loss {theirs[0]:.4f} to {theirs[-1]:.4f}, largest difference {worst:.3g} (limit {arguments.limit})"
    if worst > arguments.limit:
        exact = list(losses(arguments.base, steps, torch.float64))
        worst = largest_difference(ours, exact)
        told += f"; from transformers' in double precision {worst:.3g}, of which transformers' in fp32 is {largest_difference(theirs, exact):.3g} away"
    print(told)
    return worst > arguments.limit


if __name__ == "__main__":
    sys.exit(main())
