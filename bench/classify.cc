// Measures classification in one process: what a server does between a request and its answer.
//
// usage: bench-classify MODEL TASK TEXTS fp32|bf16|int8 [--threads N] [--tokens N] [--seconds S]
//                       [--texts N] [--base DIRECTORY] [--device DEVICE]
// TEXTS has one text a line, of which the first N are taken. Prints one line of JSON: texts and
// real tokens a second in bulk (sorted by length, --tokens a call, all of them again and again for
// S seconds), milliseconds of one text at a time, the rate of a matrix product of 512 rows on this
// machine, and the share of it that bulk classification reaches (bench/peak.h); on a GPU FLOP a
// second instead of these, after three rounds that are not measured, in which graphs are made. With
// --base MODEL answers by its adapter and that base instead of by its own weights.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "bench/peak.h"
#include "model/t5/classifier.h"
#include "model/t5/device.h"

namespace tasuki {
namespace {

int Run(int count, char** arguments) {
  if (count < 5) {
    std::cerr << "usage: bench-classify MODEL TASK TEXTS fp32|bf16|int8 [--threads N] [--tokens N] "
                 "[--seconds S] [--texts N] [--base DIRECTORY] [--device DEVICE]\n";
    return 2;
  }
  std::string base_directory, wanted = "cpu";
  int threads = 2;
  int64_t call_tokens = 4096;
  double seconds = 10;
  size_t most_texts = 256;
  for (int i = 5; i + 1 < count; i += 2) {
    const std::string flag = arguments[i];
    if (flag == "--threads") threads = std::atoi(arguments[i + 1]);
    if (flag == "--tokens") call_tokens = std::atoll(arguments[i + 1]);
    if (flag == "--base") base_directory = arguments[i + 1];
    if (flag == "--texts") most_texts = std::atoll(arguments[i + 1]);
    if (flag == "--seconds") seconds = std::atof(arguments[i + 1]);
    if (flag == "--device") wanted = arguments[i + 1];
  }
  const std::string directory = arguments[1], name = arguments[4];
  ClassifierOptions options;
  options.threads = threads;
  const auto precision = PrecisionNamed(name);
  if (!precision) {
    std::cerr << "bench-classify: " << name << " is not fp32, bf16 or int8\n";
    return 2;
  }
  options.precision = *precision;
  const auto device = OpenDevice(wanted);
  if (!device.ok()) {
    std::cerr << "bench-classify: " << device.status().message() << "\n";
    return 1;
  }
  options.device = device->name;
  const int warm_ups = device->is_cpu() ? 0 : 3;
  const double before = Now();
  const auto base = LoadedBase::Load(base_directory.empty() ? directory : base_directory, options);
  if (!base.ok()) {
    std::cerr << base.status() << "\n";
    return 1;
  }
  const auto classifier = base_directory.empty() ? Classifier::LoadOver(directory, *base)
                                                 : Classifier::LoadAdapter(directory, *base);
  if (!classifier.ok()) {
    std::cerr << classifier.status() << "\n";
    return 1;
  }
  const double loaded = Now() - before;
  const T5Config config = T5Config::Read(directory + "/config.json").value();
  std::vector<Classifier::Input> inputs;
  std::ifstream file(arguments[3]);
  for (std::string line; inputs.size() < most_texts && std::getline(file, line);) {
    inputs.push_back((*classifier)->Prepare((*classifier)->TaskIndex(arguments[2]), line).value());
  }
  for (int i = 0; i < warm_ups; ++i) {
    for (const Classifier::Input& input : inputs) (void)(*classifier)->Score({&input});
  }
  std::vector<double> alone;
  for (const double end = Now() + seconds / 2; Now() < end;) {
    const Classifier::Input& input = inputs[alone.size() % inputs.size()];
    const double begin = Now();
    (void)(*classifier)->Score({&input});
    alone.push_back((Now() - begin) * 1e3);
  }
  std::sort(alone.begin(), alone.end());

  std::vector<const Classifier::Input*> sorted;
  for (const Classifier::Input& input : inputs) sorted.push_back(&input);
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](auto* a, auto* b) { return a->tokens.size() < b->tokens.size(); });
  std::vector<std::vector<const Classifier::Input*>> calls;
  int64_t tokens = call_tokens;
  for (const Classifier::Input* input : sorted) {
    const int64_t length = static_cast<int64_t>(input->tokens.size());
    if (tokens + length > call_tokens) {
      calls.emplace_back();
      tokens = 0;
    }
    calls.back().push_back(input);
    tokens += length;
  }
  for (int i = 0; i < warm_ups; ++i) {
    for (const auto& call : calls) (void)(*classifier)->Score(call);
  }
  double texts = 0, real = 0;
  const double start = Now();
  while (Now() - start < seconds) {
    for (const auto& call : calls) {
      (void)(*classifier)->Score(call);
      texts += static_cast<double>(call.size());
      for (const Classifier::Input* input : call) real += static_cast<double>(input->tokens.size());
    }
  }
  const double took = Now() - start;
  const double flop = real * FlopOfToken(config) + texts * FlopOfRow(config);
  if (!device->is_cpu()) {
    std::printf(
        "{\"what\": \"ours %s\", \"device\": \"%s\", \"texts_per_second\": %.1f, "
        "\"tokens_per_second\": %.0f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"tflops\": %.1f, "
        "\"load_seconds\": %.2f}\n",
        name.c_str(), device->model.c_str(), texts / took, real / took, alone[alone.size() / 2],
        alone[alone.size() * 99 / 100], flop / took / 1e12, loaded);
    return 0;
  }
  const double peak = Peak(options.precision, threads);
  std::printf(
      "{\"what\": \"ours %s\", \"threads\": %d, \"texts_per_second\": %.2f, \"tokens_per_second\": "
      "%.1f, "
      "\"p50_ms\": %.2f, \"p99_ms\": %.2f, \"peak_gflops\": %.0f, \"share_of_peak\": %.3f, "
      "\"load_seconds\": %.2f, \"kernels\": \"%s\"}\n",
      name.c_str(), threads, texts / took, real / took, alone[alone.size() / 2],
      alone[alone.size() * 99 / 100], peak / 1e9, flop / took / peak, loaded, BestKernels().name);
  return 0;
}

}  // namespace
}  // namespace tasuki

int main(int count, char** arguments) { return tasuki::Run(count, arguments); }
