// The Open Inference Protocol in terms of Classify (docs/inference-protocol.md): from a
// ModelInferRequest to a ClassifyRequest, and from the answer to a ModelInferResponse. Values only;
// any thread.
//
// A model takes the tensor `text`. Its outputs are those of a task: `label`, `probability`, …; of
// several tasks each output has the task's name before it: `sentiment.label`.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/repeated_field.h"
#include "inference/inference.pb.h"
#include "tasuki/v1/classification.pb.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

// Of a version, as its manifest has them.
using Tasks = google::protobuf::RepeatedPtrField<v1::Task>;

inline constexpr char kInferencePlatform[] = "tasuki_t5";

// `models/{model}`, with "/versions/{version}" if that is a number, "/aliases/{version}" if it is
// another id. INVALID_ARGUMENT, FIELD_INVALID, naming {prefix}name or {prefix}version.
absl::StatusOr<std::string> ModelResourceName(absl::string_view model, absl::string_view version,
                                              absl::string_view prefix = "");

// What a request says without its model.
struct InferenceOrder {
  v1::ClassifyRequest request;  // no tasks yet
  absl::Duration timeout = absl::InfiniteDuration();
};
// INVALID_ARGUMENT: FIELD_INVALID with every fault, or LIMIT_EXCEEDED. UNIMPLEMENTED: shared memory
// and sequences.
absl::StatusOr<InferenceOrder> ReadInferRequest(const inference::ModelInferRequest& request);

// An output of a model.
struct InferenceOutput {
  enum Kind {
    kLabel,          // BYTES [N], the most probable label
    kProbability,    // FP32 [N], its probability
    kProbabilities,  // FP32 [N, C], those of all labels
    kLabels,         // BYTES [C], their names
    kTokenCount,     // INT32 [N]
    kTruncated,      // BOOL [N]
    kAbstained,      // BOOL [N]
  };
  Kind kind = kLabel;
  std::string name;
  int task = 0;  // index into InferencePlan::tasks
  int classes =
      0;  // kProbabilities as the `classes` most probable: BYTES [N, classes]; 0: as it is

  std::string datatype() const;
  inference::DataType data_type() const;
};

// What a request wants of a version.
struct InferencePlan {
  std::vector<const v1::Task*> tasks;  // in the order in which they are to be asked for
  std::vector<InferenceOutput> outputs;
};
// All there is of a version.
InferencePlan WholePlan(const Tasks& tasks);
// INVALID_ARGUMENT: TASK_UNKNOWN; FIELD_INVALID, naming the outputs there are. UNIMPLEMENTED:
// shared memory. The tasks must outlive the plan.
absl::StatusOr<InferencePlan> PlanInference(const inference::ModelInferRequest& request,
                                            const Tasks& tasks);

// The answer in the representation of the request. `answer` is that of the plan's tasks by the
// version that the plan was made for.
void FillInferResponse(const inference::ModelInferRequest& request, const InferencePlan& plan,
                       const v1::ClassifyResponse& answer, inference::ModelInferResponse& response);

// Metadata and configuration of a version; without name and versions.
void FillTensors(const Tasks& tasks, inference::ModelMetadataResponse& response);
void FillTensors(const Tasks& tasks, inference::ModelConfig& config);

}  // namespace tasuki
