"""Classification by peers: what bench-classify measures of ours. One line of JSON for each way.

usage: classify.py MODEL TASK TEXTS WAY [--batch N] [--seconds S] [--threads N] [--texts N] [--work DIR] [--device D]

WAY is transformers-generate-{fp32,bf16}: greedy generation of a label's tokens;
transformers-step-{fp32,bf16}: one decoder step and the rows of the head that the labels begin with;
onnx-step-{fp32,int8}: the same exported to ONNX Runtime, int8 by its dynamic quantisation;
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
parser.add_argument("--work", type=Path, help="keeps the copies of the model in the forms of CTranslate2 and ONNX Runtime")
parser.add_argument("--device", default="cpu", help="cpu or cuda; of transformers")
options = parser.parse_args()

import numpy
import sentencepiece

tokenizer = sentencepiece.SentencePieceProcessor(str(options.model / "spiece.model"))
task = next(t for t in json.loads((options.model / "tasuki.json").read_text())["tasks"] if t["name"] == options.task)
targets = [tokenizer.encode(label["target_text"]) + [1] for label in task["labels"]]
inputs = [tokenizer.encode(task["prefix"] + line)[:511] + [1] for line in options.file.read_text(encoding="utf-8").splitlines()[: options.count]]
peer, how, precision = options.way.split("-")

longest_target = max(map(len, targets))


def padded(batch):
    """Ids and mask [texts, longest]."""
    ids = numpy.zeros((len(batch), max(map(len, batch))), dtype=numpy.int64)
    mask = numpy.zeros_like(ids)
    for row, tokens in enumerate(batch):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return ids, mask


def one_step(dtype):
    """transformers' model, and a module of it: ids, mask → log p of the first tokens of the labels, [texts, labels]."""
    import torch
    from transformers import T5ForConditionalGeneration

    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    model = T5ForConditionalGeneration.from_pretrained(options.model, dtype=dtype).eval().to(options.device)
    first = torch.tensor([target[0] for target in targets], device=options.device)
    rows = model.lm_head.weight[first] * model.model_dim ** -0.5

    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids, mask):
            encoded = model.encoder(input_ids=ids, attention_mask=mask)[0]
            start = torch.zeros_like(ids[:, :1])
            states = model.decoder(input_ids=start, encoder_hidden_states=encoded, encoder_attention_mask=mask, use_cache=False)[0]
            return torch.log_softmax((states[:, 0] @ rows.T).float(), -1)

    return model, Step().eval()


if peer == "transformers":
    import torch

    model, step = one_step({"fp32": torch.float32, "bf16": torch.bfloat16}[precision])

    def classify(batch):
        ids, mask = (torch.from_numpy(array).to(options.device) for array in padded(batch))
        if how == "generate":
            return model.generate(input_ids=ids, attention_mask=mask, do_sample=False, num_beams=1, max_new_tokens=longest_target).cpu()
        return step(ids, mask).cpu()
elif peer == "onnx":
    import onnxruntime

    exported = (options.work or options.model.parent) / f"onnx-{options.task}"
    file = exported / f"{precision}.onnx"
    if not (exported / "fp32.onnx").is_file():
        import torch

        exported.mkdir(exist_ok=True)
        ids, mask = map(torch.from_numpy, padded(inputs[:2]))
        axes = {name: {0: "texts", 1: "tokens"} for name in ("ids", "mask")}
        torch.onnx.export(one_step(torch.float32)[1], (ids, mask), str(exported / "fp32.onnx"), input_names=["ids", "mask"],
                          output_names=["scores"], dynamic_axes=axes, opset_version=17, dynamo=False)
    if not file.is_file():
        from onnxruntime.quantization import quantize_dynamic

        quantize_dynamic(exported / "fp32.onnx", file, per_channel=True)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])

    def classify(batch):
        ids, mask = padded(batch)
        return session.run(None, {"ids": ids, "mask": mask})[0]
else:
    import ctranslate2

    converted = (options.work or options.model.parent) / f"ct2-{precision}"
    if not converted.is_dir():
        from ctranslate2.converters import TransformersConverter

        TransformersConverter(str(options.model)).convert(str(converted), quantization=precision)
    translator = ctranslate2.Translator(str(converted), device="cpu", compute_type=precision, inter_threads=1, intra_threads=options.threads)
    pieces = lambda ids: [tokenizer.id_to_piece(i) for i in ids]

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
