// Measures training steps in one process: forward, backward and AdamW on batches of real texts.
//
// usage: bench-train MODEL TEXTS BATCH SECONDS [fp32|bf16] [THREADS] [DEVICE]
// TEXTS has one text a line; targets are "0" and "1" in turn. Six batches, of the examples that
// bench/peers/train.py takes too, are gone through as a whole, again and again until SECONDS are
// over. Prints one line of JSON: seconds of a step, and of its part
// without the optimizer; examples and real input tokens a second; the share of the machine's peak
// (products of 512 rows) that the part without the optimizer reaches, with three times the FLOP of
// a forward pass; the most memory from the second step on, in MiB, above the 16 bytes a parameter
// of weights, gradients and moments. On a GPU: FLOP a second instead of peak, share and memory; and
// three rounds that are not measured go before, in which graphs are made.
#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <random>

#include "bench/peak.h"
#include "model/t5/device.h"
#include "model/t5/graphs.h"
#include "model/t5/t5.h"
#include "model/text/tokenizer.h"
#include "model/training/loss.h"
#include "model/training/numerics.h"
#include "model/training/optimizer.h"
#include "model/training/work.h"

namespace tasuki {
namespace {

constexpr int64_t kBatches = 6;

int Run(int count, char** arguments) {
  if (count < 5) {
    std::cerr << "usage: bench-train MODEL TEXTS BATCH SECONDS [fp32|bf16] [THREADS] [DEVICE]\n";
    return 2;
  }
  const std::string directory = arguments[1];
  const int64_t batch_size = std::atoll(arguments[3]);
  const double seconds = std::atof(arguments[4]);
  const std::string name = count > 5 ? arguments[5] : "fp32";
  const auto device = OpenDevice(count > 7 ? arguments[7] : "cpu");
  if (!device.ok()) {
    std::cerr << "bench-train: " << device.status().message() << "\n";
    return 1;
  }
  const bool on_cpu = device->is_cpu();
  const auto precision = PrecisionNamed(name);
  if (!precision || *precision == Precision::kInt8 ||
      (on_cpu && !CanDo(BestKernels(), *precision))) {
    std::cerr << "bench-train: this machine does not train in " << name << "\n";
    return 2;
  }
  const int threads = count > 6 ? std::atoi(arguments[6]) : 2;
  SetNumerics(threads, /*kernels=*/"");
  const T5Config config = T5Config::Read(directory + "/config.json").value();
  const T5 model(config, OnDevice(ReadWeights(directory, config).value(), device->name), {},
                 *precision);
  GraphCache graphs{at::Device(device->name)};
  const auto tokenizer = Tokenizer::Load(directory + "/spiece.model").value();
  std::vector<std::vector<int32_t>> inputs, targets;
  std::ifstream file(arguments[2]);
  for (std::string line; std::getline(file, line);) {
    inputs.push_back(tokenizer->Encode("amcd: " + line).value());
    if (inputs.back().size() > 511) inputs.back().resize(511);
    inputs.back().push_back(config.eos_token_id);
    targets.push_back(tokenizer->Encode(targets.size() % 2 == 0 ? "0" : "1").value());
    targets.back().push_back(config.eos_token_id);
  }
  v1::Recipe recipe;
  recipe.set_optimizer(v1::Recipe::ADAMW);
  const auto optimizer = Optimizer::Create(recipe, model.weights());

  double all = 0, optimizing = 0, examples = 0, tokens = 0, rows = 0;
  std::vector<double> steps;
  const int64_t warm_ups = on_cpu ? 1 : 3 * kBatches;
  for (int64_t step = -warm_ups; all < seconds || step % kBatches != 0; ++step) {
    const int64_t turn = on_cpu ? std::max<int64_t>(step, 0) : step + warm_ups;
    Batch batch;
    for (int64_t i = 0; i < batch_size; ++i) {
      // A step through the texts that is coprime to most counts: lengths are mixed.
      const int64_t place = turn % kBatches * batch_size + i;
      const size_t at = place * 7919 % inputs.size();
      batch.inputs.push_back(inputs[at]);
      batch.targets.push_back(targets[at]);
      batch.weights.push_back(1);
    }
    const double begin = Now();
    ClearGradients(model.weights());
    const double loss = Backward(model, batch,
                                 {.dropout = {.network = .1},
                                  .tokens_at_once = TokensAtOnce(device->name),
                                  .graphs = &graphs});
    const double middle = Now();
    optimizer->Step({.step = turn + 1, .learning_rate = 1e-4});
    if (!on_cpu) (void)model.weights().begin()->second.view({-1})[0].item<float>();  // waits
    const double end = Now();
    if (!std::isfinite(loss)) return 1;
    if (step < 0) {
      ForgetPeakMemory();
      continue;
    }
    all += end - begin;
    optimizing += end - middle;
    steps.push_back(end - begin);
    examples += static_cast<double>(batch_size);
    tokens += static_cast<double>(batch.input_tokens());
    rows += static_cast<double>(batch.target_tokens());
  }
  double parameters = 0;
  for (const auto& [name, weight] : model.weights()) {
    parameters += static_cast<double>(weight.numel());
  }
  const double memory = (PeakMemory() - 16 * parameters) / (1 << 20);
  std::sort(steps.begin(), steps.end());
  const double flop = 3 * (tokens * FlopOfToken(config) + rows * FlopOfRow(config));
  if (!on_cpu) {
    std::printf(
        "{\"what\": \"ours %s\", \"batch\": %ld, \"device\": \"%s\", \"steps\": %zu, \"graphs\": "
        "%ld, \"step_seconds\": %.5f, \"median_step_seconds\": %.5f, \"optimizer_seconds\": %.5f, "
        "\"examples_per_second\": %.1f, \"tokens_per_second\": %.0f, \"tflops\": %.1f}\n",
        name.c_str(), static_cast<long>(batch_size), device->model.c_str(), steps.size(),
        static_cast<long>(graphs.captured()), all / steps.size(), steps[steps.size() / 2],
        optimizing / steps.size(), examples / all, tokens / all, flop / all / 1e12);
    return 0;
  }
  const double peak = Peak(*precision, threads);
  std::printf(
      "{\"what\": \"ours %s\", \"batch\": %ld, \"threads\": %d, \"steps\": %zu, "
      "\"step_seconds\": %.3f, "
      "\"median_step_seconds\": %.3f, \"optimizer_seconds\": %.3f, \"examples_per_second\": %.2f, "
      "\"tokens_per_second\": %.1f, \"peak_gflops\": %.0f, \"share_of_peak_without_optimizer\": "
      "%.3f, \"memory_above_mib\": %.0f}\n",
      name.c_str(), static_cast<long>(batch_size), threads, steps.size(), all / steps.size(),
      steps[steps.size() / 2], optimizing / steps.size(), examples / all, tokens / all, peak / 1e9,
      flop / (all - optimizing) / peak, memory);
  return 0;
}

}  // namespace
}  // namespace tasuki

int main(int count, char** arguments) { return tasuki::Run(count, arguments); }
