#!/usr/bin/env python3
"""Puts an exported adapter on its base with peft, and compares with what Tasuki and transformers compute.

usage: lora.py BASE_DIR ADAPTER_DIR MERGED_DIR LOGITS.safetensors [--limit .0001]

BASE_DIR and MERGED_DIR are exports of the base and of the version, ADAPTER_DIR is one with --adapter;
LOGITS.safetensors is what tests/model/training/version_logits.cc wrote of MERGED_DIR. Compared are the logits
of peft's model with ours, with those of transformers' from MERGED_DIR, and with those of peft's own merge.
Exits with 1 if one differs by more than the limit, or if the adapter does not change the base's logits by a
hundred times as much.
"""
import argparse
import sys

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import T5ForConditionalGeneration


def sequences(ours, name):
    return [s.long() for s in ours[name + "_ids"].split(ours[name + "_lengths"].long().tolist())]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "adapter", "merged", "logits"):
        parser.add_argument(name)
    parser.add_argument("--limit", type=float, default=1e-4)
    arguments = parser.parse_args()
    ours = load_file(arguments.logits)
    inputs, targets = sequences(ours, "input"), sequences(ours, "target")
    pad = lambda rows, value: torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
    batch = {"input_ids": pad(inputs, 0), "attention_mask": pad([torch.ones_like(s) for s in inputs], 0),
             "labels": pad(targets, -100)}

    def logits(model):
        with torch.no_grad():
            output = model.eval()(**batch).logits
        return torch.cat([output[i, : len(target)] for i, target in enumerate(targets)])

    load = lambda directory: T5ForConditionalGeneration.from_pretrained(directory).float()
    before = logits(load(arguments.base))
    model = PeftModel.from_pretrained(load(arguments.base), arguments.adapter)
    by_peft = logits(model)
    others = {"ours": ours["logits"], "transformers' of the export": logits(load(arguments.merged)),
              "peft's merge": logits(model.merge_and_unload())}
    off = {name: (other - by_peft).abs().max().item() for name, other in others.items()}
    change = (by_peft - before).abs().max().item()
    print(f"{len(inputs)} rows, {len(by_peft)} target tokens: peft's logits differ from " +
          ", ".join(f"{name} by {value:.2g}" for name, value in off.items()) +
          f" (limit {arguments.limit:g}); the adapter changes the base's by {change:.3g}")
    return not max(off.values()) <= arguments.limit or not change > 100 * arguments.limit


if __name__ == "__main__":
    sys.exit(main())
