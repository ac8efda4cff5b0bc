// A published model version in memory, ready to answer: tokenizer, tasks, label tries and weights.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "model/t5/kernels.h"
#include "model/t5/pass.h"
#include "tasuki/internal/files.pb.h"

namespace tasuki {

struct ClassifierOptions {
  int threads = 1;             // of a matrix product; set on each thread that calls Score
  std::string device = "cpu";  // or "cuda:N" that OpenDevice has opened
  // Of the products with weights. On a CPU another than fp32 where it can do it (BestKernels()); on
  // a GPU fp32 or bf16.
  Precision precision = Precision::kFp32;
};

// Shape, tokenizer and weights of a version in memory: what it answers with, and what versions that
// are adapters of it answer with too. Immutable; thread-safe.
class LoadedBase {
 public:
  // Opens a directory but for its tasuki.json. Errors as in Classifier::Load; it needs no task.
  static absl::StatusOr<std::shared_ptr<const LoadedBase>> Load(const std::string& directory,
                                                                const ClassifierOptions& options);
  virtual ~LoadedBase() = default;
  // Bytes that the weights take.
  virtual int64_t memory_bytes() const = 0;
};

// Immutable after Load; thread-safe.
class Classifier {
 public:
  // What is looked at of an input with too many tokens: its beginning, or its beginning and its
  // end, half of the tokens each.
  enum class Truncation { kHead, kHeadAndTail };

  // One text for one task.
  struct Input {
    int task = 0;                 // index into manifest().tasks()
    std::vector<int32_t> tokens;  // prefix, text, </s>; at most max_input_tokens
    int token_count = 0;          // before anything was cut
    bool truncated = false;
  };

  // Opens a version's directory. INVALID_ARGUMENT, MODEL_INVALID: a file is malformed or does not
  // fit the others; the message names it. FAILED_PRECONDITION if it has no task. DATA_LOSS if
  // tasuki.json is malformed. UNIMPLEMENTED: this machine cannot do the precision.
  // RESOURCE_EXHAUSTED: out of memory.
  static absl::StatusOr<std::unique_ptr<Classifier>> Load(const std::string& directory,
                                                          const ClassifierOptions& options);
  // The same with a base from LoadedBase::Load(directory), of which only tasuki.json remains to be
  // opened.
  static absl::StatusOr<std::unique_ptr<Classifier>> LoadOver(
      const std::string& directory, std::shared_ptr<const LoadedBase> base);
  // A version that was trained with `lora`, by its adapter and its base, which others may share:
  // the version's own weights are not opened. Answers are theirs but for roundings. MODEL_INVALID
  // also if its tasuki.json names no `lora`.
  static absl::StatusOr<std::unique_ptr<Classifier>> LoadAdapter(
      const std::string& directory, std::shared_ptr<const LoadedBase> base);
  virtual ~Classifier() = default;

  virtual const internal::ModelManifest& manifest() const = 0;
  // Index of a task, or -1.
  virtual int TaskIndex(absl::string_view name) const = 0;
  // Tokens of a text for a task. INVALID_ARGUMENT if it is not UTF-8.
  virtual absl::StatusOr<Input> Prepare(int task, absl::string_view text,
                                        Truncation truncation = Truncation::kHead) const = 0;
  // For each input, log p of each label of its task, in the task's order; tasks may be mixed. An
  // answer does not depend on what else is in the batch: on a CPU bit for bit, in every precision;
  // on a GPU max |Δ log p| is to be 1e-4 in fp32. Fills in `pass`.
  virtual absl::StatusOr<std::vector<std::vector<float>>> Score(
      absl::Span<const Input* const> inputs, Pass& pass) const = 0;
  absl::StatusOr<std::vector<std::vector<float>>> Score(
      absl::Span<const Input* const> inputs) const {
    Pass pass;
    return Score(inputs, pass);
  }
  // Bytes that the weights take; those of the adapter if LoadAdapter made it.
  virtual int64_t memory_bytes() const = 0;
};

// Opens a directory as a stranger's: config, tokenizer and every weight (present, of the right
// shape, finite), and the manifest if there is one. What `tasuki-trainer --check` runs. Answers the
// number of weights. Errors as in Classifier::Load, but a version without tasks is fine.
absl::StatusOr<int64_t> CheckModelDirectory(const std::string& directory);

}  // namespace tasuki
