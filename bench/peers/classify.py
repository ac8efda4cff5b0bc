"""Classification by peers: what bench-classify measures of ours. One line of JSON for each way.

usage: classify.py MODEL TASK TEXTS WAY [--batch N] [--seconds S] [--threads N] [--texts N] [--work DIR]

WAY is transformers-generate-{fp32,bf16}: greedy generation of a label's tokens;
transformers-step-{fp32,bf16}: one decoder step and the rows of the head that the labels begin with;
ct2-translate-{float32,int8}: CTranslate2's greedy search; ct2-score-{float32,int8}: its scores of every label.
Texts in bulk are sorted by length, as each peer does best; a batch is padded to its longest.
"""

import argparse
import json
import time
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("model", type=Path)
parser.add_argument("task")
parser.add_argument("file", type=Path)
parser.add_argument("way")
parser.add_argument("--batch", type=int, default=32)
parser.add_argument("--seconds", type=float, default=10)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--texts", dest="count", type=int, default=256)
parser.add_argument("--work", type=Path, help="keeps CTranslate2's copies of the model")
options = parser.parse_args()

import sentencepiece

tokenizer = sentencepiece.SentencePieceProcessor(str(options.model / "spiece.model"))
task = next(t for t in json.loads((options.model / "tasuki.json").read_text())["tasks"] if t["name"] == options.task)
targets = [tokenizer.encode(label["target_text"]) + [1] for label in task["labels"]]
inputs = [tokenizer.encode(task["prefix"] + line)[:511] + [1] for line in options.file.read_text(encoding="utf-8").splitlines()[: options.count]]
peer, how, precision = options.way.split("-")

if peer == "transformers":
    import torch
    from transformers import T5ForConditionalGeneration

    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    model = T5ForConditionalGeneration.from_pretrained(options.model, dtype=dtype).eval()
    longest_target = max(map(len, targets))
    first = torch.tensor([target[0] for target in targets])
    rows = model.lm_head.weight[first] * model.model_dim ** -0.5

    def classify(batch):
        longest = max(map(len, batch))
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        if how == "generate":
            return model.generate(input_ids=ids, attention_mask=mask, do_sample=False, num_beams=1, max_new_tokens=longest_target)
        encoded = model.encoder(input_ids=ids, attention_mask=mask)[0]
        start = torch.zeros(len(batch), 1, dtype=torch.long)
        states = model.decoder(input_ids=start, encoder_hidden_states=encoded, encoder_attention_mask=mask)[0]
        return torch.log_softmax((states[:, 0] @ rows.T).float(), -1)
else:
    import ctranslate2

    converted = (options.work or options.model.parent) / f"ct2-{precision}"
    if not converted.is_dir():
        from ctranslate2.converters import TransformersConverter

        TransformersConverter(str(options.model)).convert(str(converted), quantization=precision)
    translator = ctranslate2.Translator(str(converted), device="cpu", compute_type=precision, inter_threads=1, intra_threads=options.threads)
    pieces = lambda ids: [tokenizer.id_to_piece(i) for i in ids]
    longest_target = max(map(len, targets))

    def classify(batch):
        sources = [pieces(tokens) for tokens in batch]
        if how == "translate":
            return translator.translate_batch(sources, beam_size=1, max_decoding_length=longest_target)
        return [translator.score_batch(sources, [pieces(target[:-1])] * len(sources)) for target in targets]

alone, end = [], time.perf_counter() + options.seconds / 2
classify(inputs[:1])
while time.perf_counter() < end:
    begin = time.perf_counter()
    classify([inputs[len(alone) % len(inputs)]])
    alone.append((time.perf_counter() - begin) * 1e3)
alone.sort()

ordered = sorted(inputs, key=len)
calls = [ordered[i : i + options.batch] for i in range(0, len(ordered), options.batch)]
classify(calls[0])
texts = real = 0
start = time.perf_counter()
while (took := time.perf_counter() - start) < options.seconds:
    for call in calls:
        classify(call)
        texts += len(call)
        real += sum(map(len, call))
print(json.dumps({"what": options.way, "threads": options.threads, "texts_per_second": round(texts / took, 2),
                  "tokens_per_second": round(real / took, 1), "p50_ms": round(alone[len(alone) // 2], 2),
                  "p99_ms": round(alone[len(alone) * 99 // 100], 2)}))
