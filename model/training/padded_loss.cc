#include "model/training/padded_loss.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "model/t5/attention.h"
#include "model/t5/graphs.h"

namespace tasuki {
namespace {

using Sequences = std::vector<std::vector<int32_t>>;

// From here on a part keeps a GPU busy, and shorter examples are worth one of their own.
constexpr int64_t kWorthAPart = 4096;
// Lengths are multiples of these: more of them would be more graphs.
constexpr int64_t kInputMultiple = 8, kTargetMultiple = 2;
constexpr int64_t kIgnored = -100;  // as a target

int64_t Longest(const Sequences& sequences) {
  size_t longest = 0;
  for (const std::vector<int32_t>& sequence : sequences) {
    longest = std::max(longest, sequence.size());
  }
  return static_cast<int64_t>(longest);
}

// The sequences one below the other, and rows that have none.
std::vector<int64_t> Filled(const Sequences& sequences, int64_t count, int64_t length,
                            int64_t filler) {
  std::vector<int64_t> rectangle(count * length, filler);
  auto row = rectangle.begin();
  for (const std::vector<int32_t>& sequence : sequences) {
    std::copy(sequence.begin(), sequence.end(), row);
    row += length;
  }
  return rectangle;
}

// What Logits reads.
void WriteTokens(const Sequences& inputs, const Sequences& targets, const PaddedSizes& sizes,
                 const T5Config& config, NumberWriter& writer) {
  writer.Add(Filled(inputs, sizes.sequences, sizes.input, config.pad_token_id));
  std::vector<int64_t> lengths(sizes.sequences, 1);
  Sequences shifted;
  for (size_t i = 0; i < inputs.size(); ++i) {
    lengths[i] = static_cast<int64_t>(inputs[i].size());
    shifted.push_back(ShiftRight(targets[i], config));
  }
  writer.Add(lengths);
  writer.Add(PositionBuckets(sizes.input, /*bidirectional=*/true, config));
  writer.Add(Filled(shifted, sizes.sequences, sizes.target, config.pad_token_id));
  writer.Add(PositionBuckets(sizes.target, /*bidirectional=*/false, config));
}

// [sequences * target, vocab_size]
at::Tensor Logits(const T5& model, const PaddedSizes& sizes, const Dropout& dropout,
                  NumberReader& reader) {
  PaddedTokens input, decoder_input;
  input.ids = reader.Next(sizes.sequences * sizes.input);
  input.lengths = reader.Next(sizes.sequences);
  input.buckets = reader.Next(2 * sizes.input - 1);
  decoder_input.ids = reader.Next(sizes.sequences * sizes.target);
  decoder_input.buckets = reader.Next(2 * sizes.target - 1);
  const at::Tensor encoded = model.Encode(input, dropout);
  return model.Logits(model.Decode(decoder_input, encoded, input, dropout));
}

at::Device DeviceOf(const T5& model) { return model.weights().begin()->second.device(); }

// Where a graph may have them, each at its place for good.
void MakeGradients(const WeightMap& weights) {
  for (const auto& [name, weight] : weights) {
    if (weight.requires_grad() && !weight.grad().defined()) {
      weight.mutable_grad() = at::zeros_like(weight.detach());
    }
  }
}

}  // namespace

PaddedSizes PaddedSizes::Of(const Sequences& inputs, const Sequences& targets) {
  return {RoundUpSize(static_cast<int64_t>(inputs.size())),
          RoundUpSize(Longest(inputs), kInputMultiple),
          RoundUpSize(Longest(targets), kTargetMultiple)};
}

at::Tensor PaddedTargetLogits(const T5& model, const Sequences& inputs, const Sequences& targets,
                              const Dropout& dropout) {
  const at::Device device = DeviceOf(model);
  const PaddedSizes sizes = PaddedSizes::Of(inputs, targets);
  NumberWriter writer;
  WriteTokens(inputs, targets, sizes, model.config(), writer);
  NumberReader reader(at::tensor(writer.numbers(), at::kLong).to(device));
  const at::Tensor logits = Logits(model, sizes, dropout, reader);
  std::vector<int64_t> rows;  // that are no padding
  for (size_t i = 0; i < targets.size(); ++i) {
    for (size_t t = 0; t < targets[i].size(); ++t) {
      rows.push_back(static_cast<int64_t>(i) * sizes.target + static_cast<int64_t>(t));
    }
  }
  return logits.index_select(0, at::tensor(rows, at::kLong).to(device));
}

double PaddedBackward(const T5& model, const Batch& batch, const LossOptions& options) {
  const at::Device device = DeviceOf(model);
  const double target_tokens = static_cast<double>(batch.target_tokens());
  MakeGradients(model.trained());
  GraphCache no_graphs(device, nullptr);
  GraphCache& graphs = options.graphs != nullptr ? *options.graphs : no_graphs;
  const at::Tensor sum = at::zeros({}, at::TensorOptions(at::kDouble).device(device));
  for (const Batch& part : PaddedParts(batch, options.tokens_at_once)) {
    const PaddedSizes sizes = PaddedSizes::Of(part.inputs, part.targets);
    NumberWriter writer;
    WriteTokens(part.inputs, part.targets, sizes, model.config(), writer);
    writer.Add(Filled(part.targets, sizes.sequences, sizes.target, kIgnored));
    std::vector<double> factors(sizes.sequences, 0);  // of an example's target tokens in L
    for (int64_t i = 0; i < part.size(); ++i) factors[i] = part.weights[i] / target_tokens;
    writer.Add(factors);

    const auto pass = [&model, sizes, dropout = options.dropout,
                       smoothing = options.label_smoothing](const at::Tensor& numbers) {
      NumberReader reader(numbers);
      const at::Tensor logits = Logits(model, sizes, dropout, reader);
      const at::Tensor targets = reader.Next(sizes.sequences * sizes.target);
      const at::Tensor factors = reader.NextDoubles(sizes.sequences).to(at::kFloat);
      const at::Tensor losses = at::cross_entropy_loss(logits, targets, /*weight=*/{},
                                                       at::Reduction::None, kIgnored, smoothing);
      const at::Tensor loss = (losses.view({sizes.sequences, sizes.target}).sum(1) * factors).sum();
      loss.backward();
      return loss.detach();
    };
    sum.add_(graphs.Run({sizes.sequences, sizes.input, sizes.target}, writer.numbers(), pass));
  }
  return sum.item<double>();  // the one time that the host waits
}

std::vector<Batch> PaddedParts(const Batch& batch, int64_t most_tokens) {
  return Parts(batch, [&](const Batch& part, int64_t length) {
    const int64_t longest = static_cast<int64_t>(part.inputs[0].size());
    const int64_t rows = RoundUpSize(longest, kInputMultiple);
    return RoundUpSize(part.size() + 1) * rows > most_tokens ||
           (part.size() * rows >= kWorthAPart && 4 * length < 3 * longest);
  });
}

}  // namespace tasuki
