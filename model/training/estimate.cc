#include "model/training/estimate.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "model/t5/adapter.h"
#include "model/t5/device.h"
#include "model/t5/graphs.h"
#include "model/t5/packed_attention.h"
#include "model/training/loss.h"
#include "model/training/numerics.h"
#include "model/training/optimizer.h"
#include "model/training/padded_loss.h"
#include "model/training/work.h"

namespace tasuki {
namespace {

using Clock = std::chrono::steady_clock;
using Response = v1::EstimateTrainingJobResponse;

constexpr int64_t kMostCountedSteps = 20'000;  // of more, as many are taken, evenly spread
constexpr int kMostMeasuredSteps = 20;
constexpr auto kMeasuringTime = std::chrono::seconds(5);
// Code and buffers of LibTorch that come with the first step: 60 to 90 MiB on a CPU.
constexpr int64_t kFirstStepBytes = int64_t{64} << 20;
// A forward pass against one with its backward pass.
constexpr double kForwardShare = 1.0 / 3;

// Keeps the warnings; an estimate has no events.
class Warnings : public TrainingObserver {
 public:
  explicit Warnings(Response& response) : response_(response) {}
  void OnProgress(const v1::Progress&) override {}
  void OnEvaluation(const v1::Evaluation&) override {}
  void OnCheckpoint(int64_t, bool, absl::Duration) override {}
  void OnMessage(v1::TrainingJobEvent::Message::Severity severity,
                 const std::string& text) override {
    if (severity != v1::TrainingJobEvent::Message::INFO) response_.add_notes(text);
  }

 private:
  Response& response_;
};

// Bytes of a line such as "VmRSS:   1234 kB"; 0 if it is not there.
int64_t BytesIn(const char* path, const std::string& name) {
  std::ifstream file(path);
  for (std::string word; file >> word;) {
    int64_t kilobytes = 0;
    if (word == name + ":" && file >> kilobytes) return kilobytes * 1024;
  }
  return 0;
}

// Floats that the backward pass keeps of each input token, and of each target token.
struct TokenFloats {
  int64_t input = 0, target = 0;
};

// Those of the adapter: what goes into A if it is a copy with zeros, the zeros if they are kept,
// what goes into B.
TokenFloats KeptByAdapter(const Work& work, bool on_cpu) {
  TokenFloats kept;
  if (work.lora() == nullptr) return kept;
  for (const WeightShape& weight : AdapterWeights(work.config(), *work.lora())) {
    if (!absl::EndsWith(weight.name, "lora_A.weight")) continue;
    const bool cross = absl::StrContains(weight.name, "EncDecAttention.k") ||
                       absl::StrContains(weight.name, "EncDecAttention.v");
    const bool of_inputs = cross || absl::StartsWith(weight.name, "encoder.");
    const int64_t noise = work.lora()->dropout() > 0 ? (on_cpu ? 1 : 2) * weight.shape[1] : 0;
    (of_inputs ? kept.input : kept.target) += weight.shape[0] + noise;
  }
  return kept;
}

// What is kept besides the sizes of the network.
struct Keeping {
  bool on_cpu;  // packed rows, and no noise; else padding, and biases for each sequence
  bool dropout;
  TokenFloats adapter;
};

std::vector<int64_t> LengthsOf(const std::vector<std::vector<int32_t>>& sequences) {
  std::vector<int64_t> lengths;
  for (const std::vector<int32_t>& sequence : sequences) {
    lengths.push_back(static_cast<int64_t>(sequence.size()));
  }
  return lengths;
}

// Floats that the backward pass of a part of a batch keeps, those in between included. Names as in
// docs/design.md, "Estimates".
int64_t KeptFloats(const T5Config& config, const Batch& part, const Keeping& keeping) {
  const int64_t d = config.d_model, f = config.d_ff, h = config.num_heads, k = h * config.d_kv;
  const std::vector<int64_t> inputs = LengthsOf(part.inputs), targets = LengthsOf(part.targets);
  int64_t n = part.input_tokens(), m = part.target_tokens();
  int64_t biases = 0;  // of each sequence, with their gradients of two layers
  if (!keeping.on_cpu) {
    const PaddedSizes sizes = PaddedSizes::Of(part.inputs, part.targets);
    n = sizes.sequences * sizes.input;
    m = sizes.sequences * sizes.target;
    biases = 3 * h * (n * sizes.input + m * sizes.target);
  }
  const int64_t noise = keeping.dropout && !keeping.on_cpu ? 1 : 0;
  const int64_t ff = (config.gated ? 4 : 1) + 2 * noise - (config.gated ? noise : 0);
  const int64_t attention = (2 + noise) * d + 4 * k;  // a token in a self-attention
  const int64_t feed_forward = (2 + noise) * d + ff * f;
  // With few target rows, weights of attention in place of keys and values.
  const int64_t across =
      keeping.on_cpu && StatesAreCheaper(targets, inputs, h, config.d_kv, d)
          ? 2 * m * h * d + h * part.size() * *std::max_element(targets.begin(), targets.end()) *
                                *std::max_element(inputs.begin(), inputs.end())
          : n * 2 * k;
  const int64_t encoder = config.num_layers * n * (attention + feed_forward);
  const int64_t decoder = config.num_decoder_layers *
                          (m * (attention + feed_forward + (2 + noise) * d + 2 * k) + across);
  const int64_t logits = 3 * m * config.vocab_size;
  // The gradients of what one layer keeps.
  const int64_t passing = 2 * n * (f + 3 * k);
  return encoder + decoder + biases + logits + passing + 2 * d * (n + m) +
         keeping.adapter.input * n + keeping.adapter.target * m;
}

// Steps, tokens, and the most that a batch keeps.
struct Counts {
  double input_tokens = 0, target_tokens = 0, examples = 0;  // of all steps
  int64_t longest = 0;                                       // input
  int64_t kept_floats = 0;
};

absl::StatusOr<Counts> CountSteps(Work& work, int64_t steps, bool on_cpu, const StopSignal& stop) {
  Counts counts;
  const int64_t looked_at = std::min(steps, kMostCountedSteps);
  const Keeping keeping = {on_cpu, work.recipe().dropout() > 0, KeptByAdapter(work, on_cpu)};
  for (int64_t i = 0; i < looked_at; ++i) {
    if (stop.requested()) return absl::CancelledError("stopped");
    const int64_t step = static_cast<int64_t>(static_cast<double>(i) * steps / looked_at);
    const Batch batch = work.BatchAt(step);
    counts.examples += static_cast<double>(batch.size());
    counts.input_tokens += static_cast<double>(batch.input_tokens());
    counts.target_tokens += static_cast<double>(batch.target_tokens());
    for (const auto& input : batch.inputs) {
      counts.longest = std::max(counts.longest, static_cast<int64_t>(input.size()));
    }
    for (const Batch& part :
         on_cpu ? PackedParts(batch, kTokensAtOnce) : PaddedParts(batch, kTokensAtOnceOnGpu)) {
      counts.kept_floats = std::max(counts.kept_floats, KeptFloats(work.config(), part, keeping));
    }
  }
  const double scale =
      static_cast<double>(steps) / static_cast<double>(std::max<int64_t>(looked_at, 1));
  counts.examples *= scale;
  counts.input_tokens *= scale;
  counts.target_tokens *= scale;
  return counts;
}

void EstimateMemory(const Work& work, const Counts& counts, int64_t program_bytes,
                    Response::Memory& memory) {
  int64_t weights = 0, gradients = 0, state = 0, largest = 0;
  const bool adamw = work.recipe().optimizer() != v1::Recipe::ADAFACTOR;
  const auto add = [&](const WeightShape& weight, bool trained) {
    int64_t count = 1, sum = 0;
    for (const int64_t size : weight.shape) {
      count *= size;
      sum += size;
    }
    weights += count;
    if (!trained) return;
    gradients += count;
    largest = std::max(largest, count);
    state += adamw ? 2 * count : sum;
  };
  for (const WeightShape& weight : ExpectedWeights(work.config())) {
    add(weight, work.lora() == nullptr && !IsFrozen(work.recipe(), weight.name));
  }
  if (work.lora() != nullptr) {
    for (const WeightShape& weight : AdapterWeights(work.config(), *work.lora())) add(weight, true);
  }
  constexpr int64_t kFloat = sizeof(float);
  memory.set_weights_bytes(weights * kFloat);
  memory.set_gradients_bytes(gradients * kFloat);
  memory.set_optimizer_bytes(state * kFloat);
  // An evaluation has a second set of weights; Adafactor three copies of one gradient at a time.
  const bool evaluates = work.evaluation_tokens() + work.final_evaluation_tokens() > 0;
  const int64_t between = std::max(evaluates ? weights : 0, adamw ? 0 : 3 * largest);
  memory.set_activations_bytes(std::max(counts.kept_floats, between) * kFloat);
  memory.set_program_bytes(program_bytes);
  memory.set_peak_bytes(memory.weights_bytes() + memory.gradients_bytes() +
                        memory.optimizer_bytes() + memory.activations_bytes() + program_bytes);
}

struct Speed {
  int steps = 0;
  double seconds = 0, input_tokens = 0;
};

// Takes steps, evenly spread over the work. The first of them, which warms up, counts only if it
// took all the time.
absl::StatusOr<Speed> MeasureSpeed(Work& work, int64_t steps, const std::string& device,
                                   const StopSignal& stop) {
  const auto model = FirstModel(work, device);
  if (!model.ok()) return model.status();
  const v1::Recipe& recipe = work.recipe();
  const std::unique_ptr<Optimizer> optimizer = Optimizer::Create(recipe, model->trained());
  GraphCache graphs{at::Device(device)};
  Speed speed;
  const Clock::time_point begin = Clock::now();
  for (int i = 0; i <= kMostMeasuredSteps && i < std::max<int64_t>(steps, 2); ++i) {
    if (stop.requested()) return absl::CancelledError("stopped");
    const Batch batch = work.BatchAt(i * steps / (kMostMeasuredSteps + 1));
    const Clock::time_point step_begin = Clock::now();
    ClearGradients(model->trained());
    Backward(*model, batch,
             {.dropout = DropoutOf(work),
              .label_smoothing = recipe.label_smoothing(),
              .tokens_at_once = TokensAtOnce(device),
              .graphs = &graphs});
    (void)GradientNorm(model->trained());
    optimizer->Step({.step = i + 1, .learning_rate = 1e-9});
    const bool time_is_up = Clock::now() - begin > kMeasuringTime;
    if (i > 0 || time_is_up) {
      ++speed.steps;
      speed.seconds += std::chrono::duration<double>(Clock::now() - step_begin).count();
      speed.input_tokens += static_cast<double>(batch.input_tokens());
    }
    if (time_is_up) break;
  }
  return speed;
}

void SetDuration(double seconds, google::protobuf::Duration& duration) {
  duration.set_seconds(static_cast<int64_t>(seconds));
  duration.set_nanos(
      static_cast<int32_t>((seconds - static_cast<double>(duration.seconds())) * 1e9));
}

std::string Mebibytes(int64_t bytes) { return absl::StrCat(bytes >> 20, " MiB"); }

void EstimateTime(const Work& work, const Speed& speed, double input_tokens, int64_t steps,
                  Response& response) {
  const double rate = speed.input_tokens / speed.seconds;
  response.set_measured_steps(speed.steps);
  response.set_tokens_per_second(rate);
  SetDuration(input_tokens / rate, *response.mutable_training_duration());
  const int64_t every = StepsPerEvaluation(work);
  const int64_t evaluations = (steps + every - 1) / every;
  const double tokens =
      static_cast<double>(evaluations * work.evaluation_tokens() + work.final_evaluation_tokens());
  SetDuration(tokens * kForwardShare / rate, *response.mutable_evaluation_duration());
}

absl::StatusOr<Response> EstimateOrThrow(const v1::TrainingJob& job, const TrainingPlaces& places,
                                         const TrainingOptions& options, const StopSignal& stop) {
  Response response;
  Warnings warnings(response);
  if (const auto device = OpenDevice(options.device); !device.ok()) return device.status();
  SetNumerics(options.threads, options.kernels);
  absl::Status made = MakeDirectories(places.checkpoints_directory);
  if (!made.ok()) return made;
  auto prepared = PrepareWork(job, places, options.threads, stop, warnings);
  if (!prepared.ok()) return prepared.status();
  Work& work = **prepared;
  const v1::Recipe& recipe = work.recipe();
  const int64_t steps = TotalSteps(work);
  const auto counts = CountSteps(work, steps, options.device == "cpu", stop);
  if (!counts.ok()) return counts.status();

  *response.mutable_training_job() = job;
  response.set_steps(steps);
  response.set_examples(std::llround(counts->examples));
  response.set_input_tokens(std::llround(counts->input_tokens));
  response.set_target_tokens(std::llround(counts->target_tokens));
  response.set_longest_input_tokens(static_cast<int32_t>(counts->longest));
  if (steps > kMostCountedSteps) {
    response.add_notes(absl::StrCat("Tokens and the largest batch are those of ", kMostCountedSteps,
                                    " steps, evenly spread over the job."));
  }
  if (recipe.has_time_limit() || recipe.has_early_stopping()) {
    response.add_notes(
        "Steps, tokens and time are those of the whole schedule; the time limit or early stopping "
        "may end the job before.");
  }
  Response::Memory& memory = *response.mutable_memory();
  EstimateMemory(work, *counts, BytesIn("/proc/self/status", "VmRSS") + kFirstStepBytes, memory);

  const int64_t available = BytesIn("/proc/meminfo", "MemAvailable");
  const int64_t needed = memory.peak_bytes() - memory.program_bytes();
  if (options.device == "cpu" && available > 0 && needed > available) {
    response.add_notes(absl::StrCat("No step was taken to measure the speed: the job needs ",
                                    Mebibytes(needed), " more, and the machine has ",
                                    Mebibytes(available), "."));
    return response;
  }
  const auto speed = MeasureSpeed(work, steps, options.device, stop);
  if (!speed.ok()) return speed.status();
  EstimateTime(work, *speed, counts->input_tokens, steps, response);
  response.add_notes(absl::StrFormat(
      "Times rest on %d steps of this job, taken just now in %.1f s on %s with %d threads, beside "
      "whatever else the machine did; an evaluation's token counts for a third of a training one. "
      "Checkpoints and the reading of data are not in them.",
      speed->steps, speed->seconds, options.device, options.threads));
  return response;
}

}  // namespace

absl::StatusOr<Response> Estimate(const v1::TrainingJob& job, const TrainingPlaces& places,
                                  const TrainingOptions& options, const StopSignal& stop) {
  try {
    return EstimateOrThrow(job, places, options, stop);
  } catch (const std::exception& error) {
    if (SaysOutOfMemory(error)) {
      return MakeError(
          absl::StatusCode::kResourceExhausted, v1::OUT_OF_MEMORY,
          "the job's data or a step of it do not fit into memory; a smaller batch_size "
          "or max_input_tokens may help");
    }
    return MakeError(absl::StatusCode::kInternal, v1::INTERNAL_ERROR, error.what());
  }
}

}  // namespace tasuki
