"""Makes what script/bench classifies with: a t5-base of random weights, with a tokenizer trained on the texts.

usage: model.py DATA DIRECTORY [--small]

DATA is a directory as script/study wants it. DIRECTORY/model is a Hugging Face directory with tasuki.json (tasks amcd and
marc); DIRECTORY/amcd.txt and marc.txt have one text a line. Random weights carry no signal: they serve for speed only.
"""

import argparse
import csv
import json
import random
from pathlib import Path

import sentencepiece
import torch
from transformers import T5Config, T5ForConditionalGeneration

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("data", type=Path)
parser.add_argument("directory", type=Path)
parser.add_argument("--small", action="store_true", help="d_model 256, 4 + 2 layers: to try the bench itself")
options = parser.parse_args()

amcd = [line.rstrip("\n").split("\t")[0] for line in (options.data / "amcd_test.tsv").open(encoding="utf-8")][1:]
train = [line.rstrip("\n").split("\t")[0] for line in (options.data / "amcd_train.tsv").open(encoding="utf-8")][1:]
with (options.data / "marc_ja.csv").open(encoding="utf-8", newline="") as file:
    marc = [" ".join(row["text"].split()) for row in csv.DictReader(file)]
directory = options.directory / "model"
directory.mkdir(parents=True, exist_ok=True)
for name, texts in (("amcd", amcd), ("marc", random.Random(0).sample(marc, min(1000, len(marc))))):
    (options.directory / f"{name}.txt").write_text("".join(text + "\n" for text in texts), encoding="utf-8")

sentencepiece.SentencePieceTrainer.Train(
    sentence_iterator=iter(train + marc), model_prefix=str(directory / "spiece"), vocab_size=32000, hard_vocab_limit=False,
    pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2)
(directory / "spiece.vocab").unlink()

size = dict(d_model=256, d_ff=1024, num_heads=4, num_layers=4, num_decoder_layers=2) if options.small else \
    dict(d_model=768, d_ff=3072, num_heads=12, num_layers=12)
torch.manual_seed(0)
model = T5ForConditionalGeneration(T5Config(vocab_size=32128, d_kv=64, decoder_start_token_id=0, **size))
model.save_pretrained(directory)
(directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "legacy": True, "extra_ids": 100}))
task = lambda name, labels: {"name": name, "prefix": f"{name}: ", "weight": 1,
                             "labels": [{"name": label, "target_text": label} for label in labels]}
(directory / "tasuki.json").write_text(json.dumps({
    "format_version": 2, "max_input_tokens": 512, "tasks": [task("amcd", ["0", "1"]), task("marc", ["negative", "positive"])]}))
