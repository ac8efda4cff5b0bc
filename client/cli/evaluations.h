// Tables of evaluations: the eight figures of each, with the majority class beside; and of
// calibrations: what the probabilities were worth before and after.
#pragma once

#include <google/protobuf/repeated_ptr_field.h>

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki::cli {

// One line an evaluation. Empty if there is none.
std::string EvaluationTable(const google::protobuf::RepeatedPtrField<v1::Evaluation>& evaluations);

// One line a task. Empty if there is none.
std::string CalibrationTable(
    const google::protobuf::RepeatedPtrField<v1::Calibration>& calibrations);

// The final evaluations of several jobs, those of the same task, method and split below each other;
// then their calibrations, task by task.
std::string ComparisonTable(const std::vector<v1::TrainingJob>& jobs);

// The name of an enum value as words: TEACHER_FORCED → "teacher forced".
std::string Words(absl::string_view enum_name);

}  // namespace tasuki::cli
