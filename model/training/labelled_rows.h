// The rows of a labelled dataset as a task sees them: tokenised, cut, checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/text/tokenizer.h"
#include "model/training/batches.h"
#include "model/training/training.h"
#include "tasuki/v1/datasets.pb.h"

namespace tasuki {

// Tokenised rows of one dataset for one task.
struct LabelledRows {
  TokenRows inputs;             // prefix, text, </s>
  std::vector<int> labels;      // index into the task's labels
  std::vector<bool> truncated;  // whether the row was cut
  int64_t truncated_count = 0;
};

// Thread-compatible; what it is made of must outlive it.
class LabelledRowsReader {
 public:
  // An input has at most `max_input_tokens`, `</s>` included.
  LabelledRowsReader(const Tokenizer& tokenizer, int max_input_tokens, const TrainingPlaces& places,
                     const StopSignal& stop, TrainingObserver& observer)
      : tokenizer_(tokenizer),
        max_tokens_(static_cast<size_t>(max_input_tokens)),
        places_(places),
        stop_(stop),
        observer_(observer) {}

  // Reads `dataset` for `task` and tells how many rows were cut. LABEL_UNKNOWN, naming row and
  // label; DATASET_EMPTY; FILE_CHANGED; DISK_FULL; CANCELLED once `stop` is requested.
  absl::StatusOr<LabelledRows> Read(const v1::Task& task, const std::string& dataset) const;

 private:
  absl::Status Add(const v1::Task& task, const std::string& dataset, int64_t row,
                   const v1::Example& example, LabelledRows& rows) const;

  const Tokenizer& tokenizer_;
  const size_t max_tokens_;
  const TrainingPlaces& places_;
  const StopSignal& stop_;
  TrainingObserver& observer_;
};

}  // namespace tasuki
