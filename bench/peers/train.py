"""Training steps of a plain transformers loop: what bench-train measures of ours. One line of JSON.

usage: train.py MODEL TEXTS WAY BATCH SECONDS [THREADS] [DEVICE]

WAY is longest (padded to the longest of the batch), grouped (batches of texts of like length) or limit (padded to 512), followed
by -fp32 or -bf16 (autocast). AdamW, dropout .1. The examples are those of bench-train, six batches that are gone through as a
whole, again and again until SECONDS are over; of limit, whose steps are all alike, a step at a time. memory_above_mib is the most
memory from the second step on, above the 16 bytes a parameter of weights, gradients and moments; of a GPU (cuda), its memory.
"""

import json
import re
import sys
import time
from pathlib import Path

import sentencepiece
import torch
from transformers import T5ForConditionalGeneration

directory, texts, way, batch_size, seconds = sys.argv[1:6]
batch_size, seconds = int(batch_size), float(seconds)
padding, precision = way.split("-")
torch.set_num_threads(int(sys.argv[6]) if len(sys.argv) > 6 else 2)
device = torch.device(sys.argv[7] if len(sys.argv) > 7 else "cpu")
on_gpu = device.type == "cuda"
tokenizer = sentencepiece.SentencePieceProcessor(f"{directory}/spiece.model")
inputs = [tokenizer.encode("amcd: " + line.rstrip("\n"))[:511] + [1] for line in open(texts, encoding="utf-8")]
targets = [tokenizer.encode(str(i % 2)) + [1] for i in range(len(inputs))]
order = [i * 7919 % len(inputs) for i in range(6 * batch_size)]
if padding == "grouped":
    order.sort(key=lambda i: len(inputs[i]))
batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

model = T5ForConditionalGeneration.from_pretrained(directory).train().to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=on_gpu)


def padded(sequences, value, length=None):
    length = length or max(map(len, sequences))
    return torch.tensor([s + [value] * (length - len(s)) for s in sequences], device=device)


def step(batch):
    ids = padded([inputs[i] for i in batch], 0, 512 if padding == "limit" else None)
    labels = padded([targets[i] for i in batch], -100)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if on_gpu:
        loss.item()
        torch.cuda.synchronize()


for batch in batches if on_gpu else batches[:1]:
    step(batch)
Path("/proc/self/clear_refs").write_text("5")  # forgets the most memory so far
if on_gpu:
    torch.cuda.reset_peak_memory_stats()
took, times, tokens = 0.0, [], sum(len(inputs[i]) for i in order) / len(batches)  # tokens of a step
while took < seconds:
    for batch in batches if padding != "limit" else batches[:1]:
        begin = time.perf_counter()
        step(batch)
        times.append(time.perf_counter() - begin)
        took += times[-1]
times.sort()
peak = torch.cuda.max_memory_allocated() if on_gpu else \
    int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
digits = 5 if on_gpu else 3
memory = (peak - 16 * sum(p.numel() for p in model.parameters())) / 2**20
print(json.dumps({"what": f"transformers {way}", "batch": batch_size, "steps": len(times), "step_seconds": round(took / len(times), digits),
                  "median_step_seconds": round(times[len(times) // 2], digits), "examples_per_second": round(len(times) * batch_size / took, 2),
                  "tokens_per_second": round(tokens * len(times) / took, 1), "memory_above_mib": round(memory)}))
