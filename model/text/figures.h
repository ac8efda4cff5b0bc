// The eight figures of an evaluation, as scikit-learn computes them with zero_division 0.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

// Fills accuracy, macro and micro F1, precision and recall, majority_* and row_count of
// `evaluation` from gold and predicted classes 0 … class_count - 1. Every class counts in the macro
// means, also one that occurs nowhere. REQUIRES: equal lengths, at least one row, classes in range.
void FillFigures(absl::Span<const int> gold, absl::Span<const int> predicted, int class_count,
                 v1::Evaluation& evaluation);

// The same over strings: the classes are the union of the strings present on either side.
void FillFigures(absl::Span<const std::string> gold, absl::Span<const std::string> predicted,
                 v1::Evaluation& evaluation);

}  // namespace tasuki
