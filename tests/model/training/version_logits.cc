// Writes the logits that a model version gives, for tests/oracles/lora.py to compare.
//
//   version_logits MODEL_DIRECTORY ROWS.jsonl COUNT OUT.safetensors
//
// The inputs are the texts of the first COUNT canonical rows, the targets their labels as texts.
// OUT holds `input_ids`, `input_lengths`, `target_ids`, `target_lengths` (sequences one after the
// other, as float32, exact up to 2^24) and `logits` [target tokens, vocab_size].
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "model/t5/config.h"
#include "model/t5/t5.h"
#include "model/t5/weights.h"
#include "model/text/examples.h"
#include "model/text/tokenizer.h"
#include "model/training/loss.h"
#include "tests/model/training/sequences.h"

namespace tasuki {
namespace {

using Sequences = std::vector<std::vector<int32_t>>;

absl::Status Run(const std::string& directory, const std::string& rows, size_t count,
                 const std::string& out) {
  const auto config = T5Config::Read(directory + "/config.json");
  if (!config.ok()) return config.status();
  const auto tokenizer = Tokenizer::Load(directory + "/spiece.model");
  if (!tokenizer.ok()) return tokenizer.status();
  auto weights = ReadWeights(directory, *config);
  if (!weights.ok()) return weights.status();
  const T5 model(*config, *std::move(weights));

  Sequences inputs, targets;
  const absl::Status read = ReadExamples(rows, [&](int64_t, v1::Example example) {
    if (inputs.size() == count) return absl::OkStatus();
    for (const auto& [text, sequences] :
         {std::pair(&example.text(), &inputs), std::pair(&example.label(), &targets)}) {
      auto tokens = (*tokenizer)->Encode(*text);
      if (!tokens.ok()) return tokens.status();
      tokens->push_back((*tokenizer)->eos_id());
      sequences->push_back(*std::move(tokens));
    }
    return absl::OkStatus();
  });
  if (!read.ok()) return read;
  at::NoGradGuard no_grad;
  WeightMap written;
  AddSequences("input", inputs, written);
  AddSequences("target", targets, written);
  written["logits"] = TargetLogits(model, inputs, targets, /*dropout=*/{});
  return WriteTensors(out, written, {});
}

}  // namespace
}  // namespace tasuki

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: version_logits MODEL_DIRECTORY ROWS.jsonl COUNT OUT.safetensors\n";
    return 2;
  }
  const absl::Status status = tasuki::Run(argv[1], argv[2], std::atoll(argv[3]), argv[4]);
  if (!status.ok()) std::cerr << status << "\n";
  return status.ok() ? 0 : 1;
}
