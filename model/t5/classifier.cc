#include "model/t5/classifier.h"

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/files/model_directory.h"
#include "model/recipe/recipe.h"
#include "model/t5/adapter.h"
#include "model/t5/config.h"
#include "model/t5/device.h"
#include "model/t5/model_json.h"
#include "model/t5/scorer.h"
#include "model/t5/weights.h"
#include "model/text/calibration.h"
#include "model/text/label_trie.h"
#include "model/text/tokenizer.h"

namespace tasuki {
namespace {

// Calls torch, and turns what it throws into a status.
template <typename Function>
auto Guarded(absl::string_view doing, Function function) -> decltype(function()) {
  try {
    return function();
  } catch (const std::exception& error) {
    if (SaysOutOfMemory(error)) {
      return MakeError(absl::StatusCode::kResourceExhausted, v1::OUT_OF_MEMORY,
                       absl::StrCat("Not enough memory for ", doing,
                                    ". Unload other versions or use a smaller model."));
    }
    if (const auto* const torch = dynamic_cast<const c10::Error*>(&error)) {
      return MakeError(
          absl::StatusCode::kInternal, v1::INTERNAL_ERROR,
          absl::StrCat("LibTorch failed at ", doing, ": ", torch->what_without_backtrace()));
    }
    return MakeError(absl::StatusCode::kInternal, v1::INTERNAL_ERROR,
                     absl::StrCat("Failed at ", doing, ": ", error.what()));
  }
}

// What a directory holds, each file checked and fitting the others.
struct Shape {
  T5Config config;
  std::unique_ptr<const Tokenizer> tokenizer;
};
struct Tasks {
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

absl::StatusOr<Tasks> ReadTasks(const std::string& directory, const Tokenizer& tokenizer) {
  Tasks tasks;
  absl::StatusOr<internal::ModelManifest> manifest = ReadManifest(directory);
  if (absl::IsNotFound(manifest.status())) return tasks;
  if (!manifest.ok()) return manifest.status();
  tasks.manifest = *std::move(manifest);
  Faults faults;
  ResolveManifest(tasks.manifest, faults);
  if (!faults.empty()) return ModelInvalid(kManifestName, faults.ToStatus().message());
  for (const v1::Task& task : tasks.manifest.tasks()) {
    absl::StatusOr<LabelTrie> labels = LabelTrie::Build(task, tokenizer);
    if (!labels.ok()) return Annotate(labels.status(), absl::StrCat(kManifestName, ": "));
    tasks.labels.push_back(*std::move(labels));
  }
  if (auto status = CheckCalibrations(tasks.manifest); !status.ok()) return status;
  return tasks;
}

absl::StatusOr<Shape> ReadShape(const std::string& directory) {
  Shape shape;
  absl::StatusOr<T5Config> config = T5Config::Read(absl::StrCat(directory, "/config.json"));
  if (!config.ok()) return config.status();
  shape.config = *config;

  auto tokenizer = Tokenizer::Load(absl::StrCat(directory, "/spiece.model"));
  if (absl::IsNotFound(tokenizer.status())) {
    return ModelInvalid("spiece.model", "the file is missing");
  }
  if (!tokenizer.ok()) return tokenizer.status();
  shape.tokenizer = *std::move(tokenizer);
  if (auto fits = CheckTokenizer(*shape.tokenizer, shape.config); !fits.ok()) return fits;
  return shape;
}

class T5Base : public LoadedBase {
 public:
  T5Base(Shape its_shape, WeightMap weights, const ClassifierOptions& its_options)
      : options(its_options),
        shape(std::move(its_shape)),
        scorer(T5Scorer::Make(shape.config, OnDevice(std::move(weights), options.device),
                              options.precision)) {}
  int64_t memory_bytes() const override { return scorer->memory_bytes(); }

  const ClassifierOptions options;
  const Shape shape;
  const std::unique_ptr<const T5Scorer> scorer;
};

class T5Classifier : public Classifier {
 public:
  // Without an adapter that is null.
  T5Classifier(std::shared_ptr<const T5Base> base, Tasks tasks,
               std::unique_ptr<const T5Scorer> adapted)
      : threads_(base->options.threads),
        manifest_(std::move(tasks.manifest)),
        labels_(std::move(tasks.labels)),
        base_(std::move(base)),
        tokenizer_(base_->shape.tokenizer.get()),
        adapted_(std::move(adapted)),
        scorer_(adapted_ != nullptr ? adapted_.get() : base_->scorer.get()) {}

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

  absl::StatusOr<std::vector<std::vector<float>>> Score(absl::Span<const Input* const> inputs,
                                                        Pass& pass) const override {
    EnterDevice(base_->options.device);
    // Torch keeps the number for each thread that calls it.
    thread_local int threads_set = 0;
    if (std::exchange(threads_set, threads_) != threads_) at::set_num_threads(threads_);
    std::vector<T5Scorer::Input> prepared;
    for (const Input* input : inputs) prepared.push_back({&input->tokens, &labels_[input->task]});
    return Guarded("classification", [&]() -> absl::StatusOr<std::vector<std::vector<float>>> {
      std::vector<std::vector<float>> scores = scorer_->Score(prepared, pass);
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
  const int threads_;
  const internal::ModelManifest manifest_;
  const std::vector<LabelTrie> labels_;  // of each task
  const std::shared_ptr<const T5Base> base_;
  const Tokenizer* const tokenizer_;
  const std::unique_ptr<const T5Scorer> adapted_;
  const T5Scorer* const scorer_;
};

absl::StatusOr<std::unique_ptr<Classifier>> LoadBy(const std::string& directory,
                                                   std::shared_ptr<const LoadedBase> loaded,
                                                   bool adapter) {
  return Guarded("loading the model", [&]() -> absl::StatusOr<std::unique_ptr<Classifier>> {
    auto base = std::static_pointer_cast<const T5Base>(std::move(loaded));
    absl::StatusOr<Tasks> tasks = ReadTasks(directory, *base->shape.tokenizer);
    if (!tasks.ok()) return tasks.status();
    if (tasks->labels.empty()) {
      return MakeError(absl::StatusCode::kFailedPrecondition, v1::MODEL_NOT_LOADED,
                       "The model has no task to classify for: fine-tune it first.");
    }
    std::unique_ptr<const T5Scorer> adapted;
    if (adapter) {
      if (!tasks->manifest.has_lora()) return ModelInvalid(kManifestName, "it names no lora");
      absl::StatusOr<Adapter> weights = ReadAdapter(absl::StrCat(directory, "/", kAdapterDirectory),
                                                    base->shape.config, tasks->manifest.lora());
      if (!weights.ok()) return weights.status();
      EnterDevice(base->options.device);
      weights->weights = OnDevice(std::move(weights->weights), base->options.device);
      adapted = base->scorer->With(*weights);
    }
    return std::make_unique<T5Classifier>(std::move(base), *std::move(tasks), std::move(adapted));
  });
}

}  // namespace

absl::StatusOr<std::shared_ptr<const LoadedBase>> LoadedBase::Load(
    const std::string& directory, const ClassifierOptions& options) {
  const bool able = options.device == "cpu" ? CanDo(BestKernels(), options.precision)
                                            : options.precision != Precision::kInt8;
  if (!able) {
    return MakeError(
        absl::StatusCode::kUnimplemented, v1::ERROR_REASON_UNSPECIFIED,
        absl::StrCat("bf16 needs a GPU, or a CPU with AVX512-BF16 and AVX512-VNNI, "
                     "and int8 such a CPU; the device is ",
                     options.device, ", the CPU has kernels \"", BestKernels().name, "\""));
  }
  return Guarded("loading the model", [&]() -> absl::StatusOr<std::shared_ptr<const LoadedBase>> {
    absl::StatusOr<Shape> shape = ReadShape(directory);
    if (!shape.ok()) return shape.status();
    absl::StatusOr<WeightMap> weights = ReadWeights(directory, shape->config);
    if (!weights.ok()) return weights.status();
    EnterDevice(options.device);
    return std::make_shared<const T5Base>(*std::move(shape), *std::move(weights), options);
  });
}

absl::StatusOr<std::unique_ptr<Classifier>> Classifier::Load(const std::string& directory,
                                                             const ClassifierOptions& options) {
  auto base = LoadedBase::Load(directory, options);
  if (!base.ok()) return base.status();
  return LoadOver(directory, *std::move(base));
}

absl::StatusOr<std::unique_ptr<Classifier>> Classifier::LoadOver(
    const std::string& directory, std::shared_ptr<const LoadedBase> base) {
  return LoadBy(directory, std::move(base), /*adapter=*/false);
}

absl::StatusOr<std::unique_ptr<Classifier>> Classifier::LoadAdapter(
    const std::string& directory, std::shared_ptr<const LoadedBase> base) {
  return LoadBy(directory, std::move(base), /*adapter=*/true);
}

absl::StatusOr<int64_t> CheckModelDirectory(const std::string& directory) {
  return Guarded("checking the model", [&]() -> absl::StatusOr<int64_t> {
    const absl::StatusOr<Shape> shape = ReadShape(directory);
    if (!shape.ok()) return shape.status();
    const absl::StatusOr<Tasks> tasks = ReadTasks(directory, *shape->tokenizer);
    if (!tasks.ok()) return tasks.status();
    const absl::StatusOr<WeightMap> weights = ReadWeights(directory, shape->config);
    if (!weights.ok()) return weights.status();
    int64_t count = 0;
    for (const auto& entry : *weights) count += entry.second.numel();
    return count;
  });
}

}  // namespace tasuki
