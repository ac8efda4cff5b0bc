#include "model/t5/classifier.h"

#include <ATen/Parallel.h>
#include <c10/core/Device.h>
#include <c10/util/Exception.h>

#include <map>
#include <new>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/files/model_directory.h"
#include "model/recipe/recipe.h"
#include "model/t5/config.h"
#include "model/t5/model_json.h"
#include "model/t5/scorer.h"
#include "model/t5/weights.h"
#include "model/text/calibration.h"
#include "model/text/label_trie.h"
#include "model/text/tokenizer.h"

namespace tasuki {
namespace {

absl::Status OutOfMemory(absl::string_view doing) {
  return MakeError(absl::StatusCode::kResourceExhausted, v1::OUT_OF_MEMORY,
                   absl::StrCat("Not enough memory for ", doing,
                                ". Unload other versions or use a smaller model."));
}

// Calls torch, and turns what it throws into a status.
template <typename Function>
auto Guarded(absl::string_view doing, Function function) -> decltype(function()) {
  try {
    return function();
  } catch (const c10::OutOfMemoryError&) {
    return OutOfMemory(doing);
  } catch (const std::bad_alloc&) {
    return OutOfMemory(doing);
  } catch (const c10::Error& error) {
    const std::string cause = error.what_without_backtrace();
    if (absl::StrContains(cause, "DefaultCPUAllocator")) return OutOfMemory(doing);
    return MakeError(absl::StatusCode::kInternal, v1::INTERNAL_ERROR,
                     absl::StrCat("LibTorch failed at ", doing, ": ", cause));
  } catch (const std::exception& error) {
    return MakeError(absl::StatusCode::kInternal, v1::INTERNAL_ERROR,
                     absl::StrCat("Failed at ", doing, ": ", error.what()));
  }
}

// What a directory holds, each file checked and fitting the others.
struct Contents {
  T5Config config;
  std::unique_ptr<Tokenizer> tokenizer;
  WeightMap weights;
  internal::ModelManifest manifest;  // empty if there is none
  std::vector<LabelTrie> labels;     // of each task
};

absl::Status CheckTokenizer(const Tokenizer& tokenizer, const T5Config& config) {
  if (tokenizer.size() > config.vocab_size) {
    return ModelInvalid("config.json",
                        absl::StrCat("vocab_size is ", config.vocab_size, ", but spiece.model has ",
                                     tokenizer.size(), " tokens with the sentinels"));
  }
  if (tokenizer.eos_id() != config.eos_token_id || tokenizer.pad_id() != config.pad_token_id) {
    return ModelInvalid("config.json",
                        absl::StrCat("pad_token_id and eos_token_id are ", config.pad_token_id,
                                     " and ", config.eos_token_id, ", in spiece.model ",
                                     tokenizer.pad_id(), " and ", tokenizer.eos_id()));
  }
  return absl::OkStatus();
}

// What serving divides by, and compares with, may come from a stranger.
absl::Status CheckCalibrations(const internal::ModelManifest& manifest) {
  std::set<std::string> tasks;
  for (const v1::Task& task : manifest.tasks()) tasks.insert(task.name());
  for (const v1::Calibration& calibration : manifest.calibrations()) {
    if (tasks.erase(calibration.task()) == 0) {
      return MakeError(absl::StatusCode::kDataLoss, v1::FILE_CHANGED,
                       absl::StrCat(kManifestName, ": task ", Quote(calibration.task()),
                                    " has two calibrations, or does not exist"));
    }
    const double temperature = calibration.temperature();
    const double threshold = calibration.abstain_threshold();
    if (!(temperature >= kMinTemperature && temperature <= kMaxTemperature) ||
        !(threshold >= 0 && threshold <= 1)) {
      return MakeError(
          absl::StatusCode::kDataLoss, v1::FILE_CHANGED,
          absl::StrCat(kManifestName, ": the calibration of task ", calibration.task(),
                       " has temperature ", temperature, " and abstain_threshold ", threshold, "; ",
                       kMinTemperature, " to ", kMaxTemperature, " and 0 to 1 are possible"));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadTasks(const std::string& directory, Contents& contents) {
  absl::StatusOr<internal::ModelManifest> manifest = ReadManifest(directory);
  if (absl::IsNotFound(manifest.status())) return absl::OkStatus();
  if (!manifest.ok()) return manifest.status();
  contents.manifest = *std::move(manifest);
  Faults faults;
  ResolveManifest(contents.manifest, faults);
  if (!faults.empty()) return ModelInvalid(kManifestName, faults.ToStatus().message());
  for (const v1::Task& task : contents.manifest.tasks()) {
    absl::StatusOr<LabelTrie> labels = LabelTrie::Build(task, *contents.tokenizer);
    if (!labels.ok()) return Annotate(labels.status(), absl::StrCat(kManifestName, ": "));
    contents.labels.push_back(*std::move(labels));
  }
  return CheckCalibrations(contents.manifest);
}

absl::StatusOr<Contents> ReadDirectory(const std::string& directory) {
  Contents contents;
  absl::StatusOr<T5Config> config = T5Config::Read(absl::StrCat(directory, "/config.json"));
  if (!config.ok()) return config.status();
  contents.config = *config;

  auto tokenizer = Tokenizer::Load(absl::StrCat(directory, "/spiece.model"));
  if (absl::IsNotFound(tokenizer.status())) {
    return ModelInvalid("spiece.model", "the file is missing");
  }
  if (!tokenizer.ok()) return tokenizer.status();
  contents.tokenizer = *std::move(tokenizer);
  if (auto fits = CheckTokenizer(*contents.tokenizer, contents.config); !fits.ok()) return fits;
  if (auto tasks = ReadTasks(directory, contents); !tasks.ok()) return tasks;

  absl::StatusOr<WeightMap> weights = ReadWeights(directory, contents.config);
  if (!weights.ok()) return weights.status();
  contents.weights = *std::move(weights);
  return contents;
}

class T5Classifier : public Classifier {
 public:
  T5Classifier(Contents contents, at::Device device, const ClassifierOptions& options)
      : threads_(options.threads),
        manifest_(std::move(contents.manifest)),
        tokenizer_(std::move(contents.tokenizer)),
        labels_(std::move(contents.labels)),
        scorer_(T5Scorer::Make(contents.config, On(device, std::move(contents.weights)),
                               options.precision)) {}

  const internal::ModelManifest& manifest() const override { return manifest_; }
  int64_t memory_bytes() const override { return scorer_->memory_bytes(); }

  int TaskIndex(absl::string_view name) const override {
    for (int i = 0; i < manifest_.tasks_size(); ++i) {
      if (manifest_.tasks(i).name() == name) return i;
    }
    return -1;
  }

  absl::StatusOr<Input> Prepare(int task, absl::string_view text,
                                Truncation truncation) const override {
    absl::StatusOr<std::vector<int32_t>> tokens =
        tokenizer_->Encode(absl::StrCat(manifest_.tasks(task).prefix(), text));
    if (!tokens.ok()) return tokens.status();
    Input input;
    input.task = task;
    input.tokens = *std::move(tokens);
    input.token_count = static_cast<int>(input.tokens.size()) + 1;
    input.truncated = input.token_count > manifest_.max_input_tokens();
    if (input.truncated) {
      const int room = manifest_.max_input_tokens() - 1;  // beside </s>
      const int tail = truncation == Truncation::kHeadAndTail ? room / 2 : 0;
      std::move(input.tokens.end() - tail, input.tokens.end(), input.tokens.begin() + room - tail);
      input.tokens.resize(room);
    }
    input.tokens.push_back(tokenizer_->eos_id());
    return input;
  }

  absl::StatusOr<std::vector<std::vector<float>>> Score(
      absl::Span<const Input* const> inputs) const override {
    // Torch keeps the number for each thread that calls it.
    thread_local int threads_set = 0;
    if (std::exchange(threads_set, threads_) != threads_) at::set_num_threads(threads_);
    std::vector<T5Scorer::Input> prepared;
    for (const Input* input : inputs) prepared.push_back({&input->tokens, &labels_[input->task]});
    return Guarded("classification", [&]() -> absl::StatusOr<std::vector<std::vector<float>>> {
      std::vector<std::vector<float>> scores = scorer_->Score(prepared);
      for (const std::vector<float>& of_labels : scores) {
        for (const float score : of_labels) {
          if (!std::isfinite(score)) {
            return ModelInvalid("model.safetensors", "scores are not finite numbers");
          }
        }
      }
      return scores;
    });
  }

 private:
  static WeightMap On(at::Device device, WeightMap weights) {
    for (auto& entry : weights) entry.second = entry.second.to(device);
    return weights;
  }

  const int threads_;
  const internal::ModelManifest manifest_;
  const std::unique_ptr<const Tokenizer> tokenizer_;
  const std::vector<LabelTrie> labels_;  // of each task
  const std::unique_ptr<const T5Scorer> scorer_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Classifier>> Classifier::Load(const std::string& directory,
                                                             const ClassifierOptions& options) {
  if (options.precision != Precision::kFp32 &&
      (options.device != "cpu" || !CanDo(BestKernels(), options.precision))) {
    return MakeError(absl::StatusCode::kUnimplemented, v1::ERROR_REASON_UNSPECIFIED,
                     absl::StrCat("bf16 and int8 need a CPU with AVX512-BF16 and AVX512-VNNI; ",
                                  options.device, " has kernels \"", BestKernels().name, "\""));
  }
  return Guarded("loading the model", [&]() -> absl::StatusOr<std::unique_ptr<Classifier>> {
    absl::StatusOr<Contents> contents = ReadDirectory(directory);
    if (!contents.ok()) return contents.status();
    if (contents->labels.empty()) {
      return MakeError(absl::StatusCode::kFailedPrecondition, v1::MODEL_NOT_LOADED,
                       "The model has no task to classify for: fine-tune it first.");
    }
    return std::make_unique<T5Classifier>(*std::move(contents), at::Device(options.device),
                                          options);
  });
}

absl::StatusOr<int64_t> CheckModelDirectory(const std::string& directory) {
  return Guarded("checking the model", [&]() -> absl::StatusOr<int64_t> {
    const absl::StatusOr<Contents> contents = ReadDirectory(directory);
    if (!contents.ok()) return contents.status();
    int64_t count = 0;
    for (const auto& entry : contents->weights) count += entry.second.numel();
    return count;
  });
}

}  // namespace tasuki
