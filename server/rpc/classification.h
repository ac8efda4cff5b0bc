// From a ClassifyRequest to inputs of a model, and from its scores to a ClassifyResponse. Values
// only; any thread.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/serving/loaded_model.h"
#include "tasuki/v1/classification.pb.h"

namespace tasuki {

inline constexpr int kMaxTexts = 256;

// Name of the model, number and size of the texts, and options. INVALID_ARGUMENT, FIELD_INVALID or
// LIMIT_EXCEEDED.
absl::Status CheckClassifyRequest(const v1::ClassifyRequest& request);

// Indices of the wanted tasks. INVALID_ARGUMENT: TASK_UNKNOWN, naming those the model has, or
// FIELD_INVALID if one is named twice.
absl::StatusOr<std::vector<int>> WantedTasks(const v1::ClassifyRequest& request,
                                             const LoadedModel& model);

// INVALID_ARGUMENT, LIMIT_EXCEEDED, saying how many texts fit, if the answer may have more bytes
// than gRPC's receivers take by default.
absl::Status CheckAnswerSize(const v1::ClassifyRequest& request, const LoadedModel& model,
                             const std::vector<int>& tasks);

// Every text for every task: text by text, within a text in the order of `tasks`. INVALID_ARGUMENT,
// TEXT_TOO_LONG, if a text has too many tokens and none are to be cut.
absl::StatusOr<std::vector<Classifier::Input>> PrepareInputs(const v1::ClassifyRequest& request,
                                                             const LoadedModel& model,
                                                             const std::vector<int>& tasks);

// Sets the version, and for each input a prediction with its token count; no scores yet.
void FillInputs(const LoadedModel& model, const std::vector<int>& tasks,
                const std::vector<Classifier::Input>& inputs, v1::ClassifyResponse& response);

// Adds the labels' scores, calibrated as the version is, to what FillInputs left: the `top_k` most
// probable, or all if that is 0. `scores` are in the order of the inputs.
void FillScores(const LoadedModel& model, const std::vector<int>& tasks,
                const std::vector<std::vector<float>>& scores, int top_k,
                v1::ClassifyResponse& response);

}  // namespace tasuki
