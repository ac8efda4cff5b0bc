#!/usr/bin/env python3
"""Writes what transformers computes from random T5s, for tests/model/training/parity_test.cc and tests/model/t5/scorer_test.cc.

usage: parity.py --out DIR [--size tiny|base]

Makes one directory a variant: config.json and model.safetensors as save_pretrained writes them, and
golden.safetensors:
  input_ids, input_lengths, target_ids, target_lengths   int64, sequences one after the other
  logits                    [target tokens, vocab_size], fp32, dropout off
  loss                      [1], mean cross-entropy over all target tokens
  grad.NAME                 gradient of the loss, each weight
  adamw.learning_rate       [1], of ten steps of torch.optim.AdamW (no decay) on the same batch
  adamw.gradient_scale      [1], what gradients are multiplied by before each step
  adamw.losses              [10], losses before each of them
  adamw.NAME                each weight after them
Of a variant with an adapter, which peft puts on the model and trains in the place of its weights, NAMEs are
those of A and B (as in adapter_model.safetensors, without base_model.model.), and it has also:
  adapter.NAME              A and B as they were before
  adapter_scale             [1], alpha / rank
The tiny ones lie in tests/model/training/golden and were made by this script; the base-size ones (2.7
GB a variant) go to a temporary directory.

Weights are random, and chosen so that differences measure code and not rounding:
- An untied head has the scale d_model^-0.5 of other matrices. With the 1 of transformers' initialization
  logits lie in the hundreds, whose last bits alone are 1e-5; a trained model's are of the order of 1 to 10.
- No unit of a ReLU layer is within KINK of zero for any token. Of the nine million at base size some are at
  1e-7, and rounding says on which side of the kink, where the gradient jumps. Without this transformers' own
  gradients in fp32 and in float64 differ by 9e-4 of the largest, with it by 4e-6. At base size, where each unit
  sees fewer tokens than it has weights, KINK is so large that ten steps do not reach zero either; with KINK
  1e-4 ten steps at 1e-5 by transformers in fp32 and in float64 end 1e-2 of the update apart.
- Gradients are scaled so that their root mean square is three times AdamW's epsilon. AdamW divides a gradient
  by its own size: far above epsilon the first step is its sign alone, the sign of the least ones is rounding,
  and the next steps multiply that. Near epsilon an error stays in proportion, and epsilon is tested too.
- The learning rate at base size lies between two roundings: much above it later steps meet the kinks,
  much below it the last bits of weights of size 1 (norms, embeddings) are more than 2e-3 of their update.
"""
import argparse
import pathlib

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import MT5Config, MT5ForConditionalGeneration, T5Config, T5ForConditionalGeneration

SIZES = {
    "tiny": dict(vocab_size=40, d_model=12, d_kv=4, d_ff=16, num_heads=2, num_layers=2, num_decoder_layers=2),
    "base": dict(vocab_size=32128, d_model=768, d_kv=64, d_ff=3072, num_heads=12, num_layers=12, num_decoder_layers=12),
}
VARIANTS = {
    "t5-v1.0": dict(feed_forward_proj="relu", tie_word_embeddings=True),
    "t5-v1.0-untied": dict(feed_forward_proj="relu", tie_word_embeddings=False),
    "t5-v1.1": dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "t5-gated-tied": dict(feed_forward_proj="gated-gelu", tie_word_embeddings=True),
    "mt5": dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    # Depths that differ, heads wider than the model, other buckets: 8 of them, exact to distance 1.
    "odd": dict(feed_forward_proj="relu", tie_word_embeddings=True, num_decoder_layers=1, num_heads=3, d_kv=6,
                relative_attention_num_buckets=8, relative_attention_max_distance=20),
    "lora": dict(feed_forward_proj="relu", tie_word_embeddings=True),
    "lora-everywhere": dict(feed_forward_proj="gated-gelu", tie_word_embeddings=True),
}
LORA = {
    "lora": dict(r=3, lora_alpha=6, target_modules=["q", "v"]),
    "lora-everywhere": dict(r=2, lora_alpha=3, target_modules=["q", "k", "v", "o", "wi_0", "wi_1", "wo"]),
}
# Around the edges of the buckets: 8 and 16 are the last exact distances (encoder, decoder), from 128
# on all distances are one.
INPUT_LENGTHS = {"tiny": [1, 2, 8, 9, 10, 16, 17, 18, 129, 150], "base": [5, 17, 64, 130]}
TARGET_LENGTHS = {"tiny": [2, 1, 3, 16, 17, 18, 4, 130, 2, 5], "base": [2, 3, 2, 18]}
STEPS = 10
LEARNING_RATE = {"tiny": 1e-3, "base": 2e-6}
KINK = {"tiny": 1e-4, "base": 1.0}


def pad(sequences, value):
    longest = max(map(len, sequences))
    return torch.tensor([s + [value] * (longest - len(s)) for s in sequences])


def leave_kinks(linear, x, margin):
    """Moves the weights of a ReLU layer so that no unit is within the margin of zero for one of its inputs."""
    while ((units := x @ linear.weight.T).abs() < margin).any():
        if len(x) < linear.in_features:  # the least change that sets the units of all inputs
            wanted = units.sign() * units.abs().clamp(min=1.1 * margin)
            linear.weight += torch.linalg.lstsq(x.double(), (wanted - units).double()).solution.T.float()
        else:
            near = (units.abs() < margin).any(0)
            linear.weight[near] = torch.randn_like(linear.weight[near]) * linear.in_features**-0.5


def named(model):
    """What is trained, by its name in our files."""
    return {key.replace("base_model.model.", "").replace(".default", ""): weight
            for key, weight in model.named_parameters() if weight.requires_grad}


def write(name, size, out):
    numbers = {**SIZES[size], **VARIANTS[name]}
    if size == "base" and name in ("odd", *LORA):
        return
    torch.manual_seed(list(VARIANTS).index(name) + 1)
    mt5 = name == "mt5"
    config = (MT5Config if mt5 else T5Config)(dropout_rate=0.0, decoder_start_token_id=0, **numbers)
    model = (MT5ForConditionalGeneration if mt5 else T5ForConditionalGeneration)(config).float()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.add_(torch.randn_like(weight), alpha=0.3)
            elif "relative_attention_bias" in key:
                weight.normal_(0, 1)
            elif key == "lm_head.weight":
                weight.normal_(0, config.d_model**-0.5)
    model.train()

    def tokens(length):
        return torch.randint(2, config.vocab_size, (length - 1,)).tolist() + [1]

    inputs = [tokens(n) for n in INPUT_LENGTHS[size]]
    targets = [tokens(n) for n in TARGET_LENGTHS[size]]
    input_ids, labels = pad(inputs, 0), pad(targets, -100)
    mask = torch.tensor([[1] * len(s) + [0] * (input_ids.shape[1] - len(s)) for s in inputs])

    def forward():
        return model(input_ids=input_ids, attention_mask=mask, labels=labels)

    def hook(stack):
        real = mask.bool() if stack == "encoder" else labels != -100
        return lambda layer, x: leave_kinks(layer, x[0][real], KINK[size])

    hooks = [module.register_forward_pre_hook(hook(key.split(".")[0]))
             for key, module in model.named_modules() if key.endswith("DenseReluDense.wi")]
    with torch.no_grad():
        forward()
    for handle in hooks:
        handle.remove()
    directory = out / name
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    for extra in directory.glob("generation_config.json"):
        extra.unlink()

    golden = {}
    if name in LORA:
        model = get_peft_model(model, LoraConfig(task_type="SEQ_2_SEQ_LM", **LORA[name])).train()
        with torch.no_grad():  # B is 0, and so A would have no gradient
            for key, weight in named(model).items():
                if "lora_B" in key:
                    weight.normal_(0, 0.3)
                golden["adapter." + key] = weight.detach().clone()
        golden["adapter_scale"] = torch.tensor([LORA[name]["lora_alpha"] / LORA[name]["r"]])

    output = forward()
    output.loss.backward()
    lengths = lambda sequences: torch.tensor([len(s) for s in sequences])
    golden |= {
        "input_ids": torch.tensor(sum(inputs, [])), "input_lengths": lengths(inputs),
        "target_ids": torch.tensor(sum(targets, [])), "target_lengths": lengths(targets),
        "logits": torch.cat([output.logits[i, : len(t)] for i, t in enumerate(targets)]).detach().contiguous(),
        "loss": output.loss.detach().reshape(1),
    }
    for key, weight in named(model).items():
        golden["grad." + key] = weight.grad.clone()
    optimizer = torch.optim.AdamW(named(model).values(), lr=LEARNING_RATE[size], weight_decay=0.0)
    gradients = torch.cat([weight.grad.flatten() for weight in named(model).values()])
    scale = (3e-8 / gradients.square().mean().sqrt()).item()
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = forward().loss
        loss.backward()
        for weight in named(model).values():
            weight.grad *= scale
        optimizer.step()
        losses.append(loss.item())
    golden["adamw.learning_rate"] = torch.tensor([LEARNING_RATE[size]])
    golden["adamw.gradient_scale"] = torch.tensor([scale])
    golden["adamw.losses"] = torch.tensor(losses)
    for key, weight in named(model).items():
        golden["adamw." + key] = weight.detach().clone()
    save_file(golden, directory / "golden.safetensors")
    print(f"{name}: loss {output.loss.item():.6f}, after {STEPS} steps {losses[-1]:.6f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--variant", choices=VARIANTS, action="append")
    arguments = parser.parse_args()
    for name in arguments.variant or VARIANTS:
        write(name, arguments.size, arguments.out)


if __name__ == "__main__":
    main()
