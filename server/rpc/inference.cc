#include "server/rpc/inference.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/errors/errors.h"
#include "model/recipe/recipe.h"
#include "model/recipe/version_name.h"
#include "server/rpc/classification.h"

namespace tasuki {
namespace {

static_assert(std::endian::native == std::endian::little, "raw tensors are copied as they lie");

constexpr char kTextName[] = "text";

struct KindFacts {
  const char* name;
  const char* datatype;
  inference::DataType data_type;
};
constexpr KindFacts kKinds[] = {
    {"label", "BYTES", inference::TYPE_STRING},      {"probability", "FP32", inference::TYPE_FP32},
    {"probabilities", "FP32", inference::TYPE_FP32}, {"labels", "BYTES", inference::TYPE_STRING},
    {"token_count", "INT32", inference::TYPE_INT32}, {"truncated", "BOOL", inference::TYPE_BOOL},
    {"abstained", "BOOL", inference::TYPE_BOOL},
};

using Parameters = google::protobuf::Map<std::string, inference::InferParameter>;

const inference::InferParameter* Find(const Parameters& parameters, const char* name) {
  const auto found = parameters.find(name);
  return found == parameters.end() ? nullptr : &found->second;
}

// 0 if there is none; a fault if it is no whole number of at least 0.
uint64_t WholeNumber(const Parameters& parameters, const char* name, const std::string& where,
                     Faults& faults) {
  const inference::InferParameter* parameter = Find(parameters, name);
  if (parameter == nullptr) return 0;
  if (parameter->has_uint64_param()) return parameter->uint64_param();
  if (parameter->has_int64_param() && parameter->int64_param() >= 0) {
    return static_cast<uint64_t>(parameter->int64_param());
  }
  faults.Add(absl::StrCat(where, "parameters[\"", name, "\"]"),
             "is no whole number of at least 0 (int64_param or uint64_param)");
  return 0;
}

// Empty if there is none.
std::string Text(const Parameters& parameters, const char* name, Faults& faults) {
  const inference::InferParameter* parameter = Find(parameters, name);
  if (parameter == nullptr) return "";
  if (!parameter->has_string_param()) {
    faults.Add(absl::StrCat("parameters[\"", name, "\"]"), "is no text (string_param)");
  }
  return parameter->string_param();
}

absl::Status RefuseSharedMemory(const Parameters& parameters, absl::string_view where) {
  for (const auto& [name, value] : parameters) {
    if (absl::StartsWith(name, "shared_memory")) {
      return absl::UnimplementedError(
          absl::StrCat(where,
                       ": tensors in shared memory are not taken or written; send them in "
                       "the request and read them from the answer."));
    }
  }
  return absl::OkStatus();
}

// N of a shape [N] or [N, 1]; nullopt with a fault otherwise.
std::optional<int64_t> TextCount(const inference::ModelInferRequest::InferInputTensor& input,
                                 Faults& faults) {
  const auto& shape = input.shape();
  if (shape.size() < 1 || shape.size() > 2 || (shape.size() == 2 && shape[1] != 1) ||
      shape[0] < 1) {
    faults.Add("inputs[0].shape",
               absl::StrCat("[", absl::StrJoin(shape, ", "),
                            "] is not [N] or [N, 1] with N from 1 to ", kMaxTexts));
    return std::nullopt;
  }
  return shape[0];
}

// `count` texts, each with its length before it.
void ReadRawTexts(absl::string_view raw, int64_t count, v1::ClassifyRequest& request,
                  Faults& faults) {
  constexpr char kField[] = "raw_input_contents[0]";
  for (int64_t i = 0; i < count; ++i) {
    uint32_t length = 0;
    if (raw.size() < sizeof length) {
      faults.Add(kField, absl::StrCat("ends before the length of element ", i, " of ", count));
      return;
    }
    std::memcpy(&length, raw.data(), sizeof length);
    raw.remove_prefix(sizeof length);
    if (length > raw.size()) {
      faults.Add(kField, absl::StrCat("says that element ", i, " has ", length, " bytes; ",
                                      raw.size(), " are left"));
      return;
    }
    request.add_texts(raw.data(), length);
    raw.remove_prefix(length);
  }
  if (!raw.empty()) {
    faults.Add(kField,
               absl::StrCat("has ", raw.size(), " bytes after the last of ", count, " elements"));
  }
}

absl::Status ReadTexts(const inference::ModelInferRequest& request, v1::ClassifyRequest& to,
                       Faults& faults) {
  if (request.inputs_size() != 1) {
    faults.Add("inputs", absl::StrCat("has ", request.inputs_size(), " tensors; one is wanted, \"",
                                      kTextName, "\""));
    return absl::OkStatus();
  }
  const auto& input = request.inputs(0);
  if (absl::Status status = RefuseSharedMemory(input.parameters(), "inputs[0]"); !status.ok()) {
    return status;
  }
  if (input.name() != kTextName) {
    faults.Add("inputs[0].name", absl::StrCat(Quote(input.name()),
                                              " is unknown; the one input is \"", kTextName, "\""));
  }
  if (input.datatype() != "BYTES") {
    faults.Add("inputs[0].datatype", absl::StrCat(Quote(input.datatype()), " is not \"BYTES\""));
  }
  const std::optional<int64_t> count = TextCount(input, faults);
  if (!count.has_value()) return absl::OkStatus();
  if (*count > kMaxTexts) {
    return MakeError(absl::StatusCode::kInvalidArgument, v1::LIMIT_EXCEEDED,
                     absl::StrCat("inputs[0].shape has ", *count, " texts; at most ", kMaxTexts,
                                  " go into one call."));
  }
  const auto& contents = input.contents();
  if (request.raw_input_contents().empty()) {
    if (contents.bytes_contents_size() != *count) {
      faults.Add("inputs[0].contents.bytes_contents",
                 absl::StrCat("has ", contents.bytes_contents_size(), " elements; the shape says ",
                              *count));
      return absl::OkStatus();
    }
    to.mutable_texts()->Assign(contents.bytes_contents().begin(), contents.bytes_contents().end());
  } else if (contents.ByteSizeLong() != 0) {
    faults.Add("inputs[0].contents", "is there beside raw_input_contents; send one of them");
  } else if (request.raw_input_contents_size() != 1) {
    faults.Add("raw_input_contents", absl::StrCat("has ", request.raw_input_contents_size(),
                                                  " entries; one is wanted for each input"));
  } else {
    ReadRawTexts(request.raw_input_contents(0), *count, to, faults);
  }
  return absl::OkStatus();
}

absl::Status ReadParameters(const Parameters& parameters, InferenceOrder& order, Faults& faults) {
  if (absl::Status status = RefuseSharedMemory(parameters, "parameters"); !status.ok()) {
    return status;
  }
  if (Find(parameters, "sequence_id") != nullptr) {
    return absl::UnimplementedError(
        "parameters[\"sequence_id\"]: a text is answered by itself; there are no sequences.");
  }
  // Triton's levels: 1 goes first, 0 leaves it to the server.
  const uint64_t priority = WholeNumber(parameters, "priority", "", faults);
  if (priority > 0) {
    order.request.set_priority(priority == 1 ? v1::ClassifyRequest::INTERACTIVE
                                             : v1::ClassifyRequest::BULK);
  }
  if (const uint64_t timeout = WholeNumber(parameters, "timeout", "", faults); timeout > 0) {
    order.timeout = absl::Microseconds(std::min<uint64_t>(timeout, INT64_MAX));
  }
  const std::string truncation = Text(parameters, "truncation", faults);
  v1::ClassifyRequest::Truncation chosen = v1::ClassifyRequest::TRUNCATION_UNSPECIFIED;
  if (!truncation.empty() && !v1::ClassifyRequest::Truncation_Parse(truncation, &chosen)) {
    faults.Add("parameters[\"truncation\"]",
               absl::StrCat(Quote(truncation), " is not HEAD, HEAD_AND_TAIL or ERROR"));
  }
  order.request.set_truncation(chosen);
  return absl::OkStatus();
}

// All outputs of the task with this place in the plan.
void AddOutputs(int task, absl::string_view prefix, std::vector<InferenceOutput>& outputs) {
  for (size_t kind = 0; kind < std::size(kKinds); ++kind) {
    outputs.push_back({static_cast<InferenceOutput::Kind>(kind),
                       absl::StrCat(prefix, kKinds[kind].name), task, 0});
  }
}

int64_t LabelCount(const InferencePlan& plan, const InferenceOutput& output) {
  return plan.tasks[output.task]->labels_size();
}

// Length of each dimension for `texts` texts; -1 for any number.
std::vector<int64_t> ShapeOf(const InferencePlan& plan, const InferenceOutput& output,
                             int64_t texts) {
  if (output.classes > 0) return {texts, output.classes};
  if (output.kind == InferenceOutput::kProbabilities) return {texts, LabelCount(plan, output)};
  if (output.kind == InferenceOutput::kLabels) return {LabelCount(plan, output)};
  return {texts};
}

// Writes elements into a tensor of an answer, or raw beside it.
class TensorWriter {
 public:
  TensorWriter(bool raw, inference::ModelInferResponse::InferOutputTensor& tensor,
               inference::ModelInferResponse& response)
      : raw_(raw ? response.add_raw_output_contents() : nullptr),
        contents_(raw ? nullptr : tensor.mutable_contents()) {}

  void Add(absl::string_view bytes) {
    if (raw_ == nullptr) {
      contents_->add_bytes_contents(bytes.data(), bytes.size());
      return;
    }
    AddRaw(static_cast<uint32_t>(bytes.size()));
    raw_->append(bytes.data(), bytes.size());
  }
  void Add(float value) { raw_ != nullptr ? AddRaw(value) : contents_->add_fp32_contents(value); }
  void Add(int32_t value) { raw_ != nullptr ? AddRaw(value) : contents_->add_int_contents(value); }
  void Add(bool value) { raw_ != nullptr ? AddRaw(value) : contents_->add_bool_contents(value); }

 private:
  template <typename T>
  void AddRaw(T value) {
    raw_->append(reinterpret_cast<const char*>(&value), sizeof value);
  }

  std::string* const raw_;
  inference::InferTensorContents* const contents_;
};

// Column of each label of a task.
using Columns = absl::flat_hash_map<absl::string_view, int>;

void WritePrediction(const InferenceOutput& output, const Columns& columns,
                     const v1::Prediction& prediction, TensorWriter& writer) {
  switch (output.kind) {
    case InferenceOutput::kLabel:
      return writer.Add(absl::string_view(prediction.label()));
    case InferenceOutput::kProbability:
      return writer.Add(static_cast<float>(prediction.scores(0).probability()));
    case InferenceOutput::kProbabilities: {
      if (output.classes > 0) {
        for (int i = 0; i < output.classes; ++i) {
          const v1::LabelScore& score = prediction.scores(i);
          writer.Add(
              absl::string_view(absl::StrCat(static_cast<float>(score.probability()), ":",
                                             columns.at(score.label()), ":", score.label())));
        }
        return;
      }
      std::vector<float> row(columns.size());
      for (const v1::LabelScore& score : prediction.scores()) {
        row[columns.at(score.label())] = static_cast<float>(score.probability());
      }
      for (const float probability : row) writer.Add(probability);
      return;
    }
    case InferenceOutput::kLabels:
      return;  // not of a text
    case InferenceOutput::kTokenCount:
      return writer.Add(prediction.token_count());
    case InferenceOutput::kTruncated:
      return writer.Add(prediction.truncated());
    case InferenceOutput::kAbstained:
      return writer.Add(prediction.abstained());
  }
}

}  // namespace

absl::StatusOr<std::string> ModelResourceName(absl::string_view model, absl::string_view version,
                                              absl::string_view prefix) {
  Faults faults;
  std::string name = absl::StrCat("models/", model);
  if (!IsModelName(name)) {
    faults.Add(absl::StrCat(prefix, "name"), model.empty()
                                                 ? "is missing"
                                                 : absl::StrCat(Quote(model),
                                                                " is no name of a model: "
                                                                "[a-z]([a-z0-9-]{0,61}[a-z0-9])?"));
  }
  if (!version.empty()) {
    const bool number = std::all_of(version.begin(), version.end(), absl::ascii_isdigit);
    absl::StrAppend(&name, number ? "/versions/" : "/aliases/", version);
    if (faults.empty() &&
        (number ? !VersionName::Parse(name).has_value() : !IsResourceId(version))) {
      faults.Add(absl::StrCat(prefix, "version"),
                 absl::StrCat(Quote(version), " is neither the number of a version nor an alias"));
    }
  }
  if (!faults.empty()) return faults.ToStatus();
  return name;
}

absl::StatusOr<InferenceOrder> ReadInferRequest(const inference::ModelInferRequest& request) {
  absl::StatusOr<std::string> model =
      ModelResourceName(request.model_name(), request.model_version(), "model_");
  if (!model.ok()) return model.status();
  InferenceOrder order;
  order.request.set_model(*std::move(model));
  Faults faults;
  absl::Status status = ReadTexts(request, order.request, faults);
  if (status.ok()) status = ReadParameters(request.parameters(), order, faults);
  if (status.ok()) status = faults.ToStatus();
  if (!status.ok()) return status;
  return order;
}

std::string InferenceOutput::datatype() const {
  return classes > 0 ? "BYTES" : kKinds[kind].datatype;
}

inference::DataType InferenceOutput::data_type() const { return kKinds[kind].data_type; }

InferencePlan WholePlan(const Tasks& tasks) {
  InferencePlan plan;
  for (const v1::Task& task : tasks) {
    AddOutputs(static_cast<int>(plan.tasks.size()),
               tasks.size() == 1 ? "" : absl::StrCat(task.name(), "."), plan.outputs);
    plan.tasks.push_back(&task);
  }
  return plan;
}

absl::StatusOr<InferencePlan> PlanInference(const inference::ModelInferRequest& request,
                                            const Tasks& tasks) {
  Faults faults;
  InferencePlan all = WholePlan(tasks);
  if (const std::string task = Text(request.parameters(), "task", faults); !task.empty()) {
    const auto found = std::find_if(all.tasks.begin(), all.tasks.end(),
                                    [&](const v1::Task* each) { return each->name() == task; });
    if (found == all.tasks.end()) {
      const auto name = [](std::string* out, const v1::Task* each) { out->append(each->name()); };
      return MakeError(absl::StatusCode::kInvalidArgument, v1::TASK_UNKNOWN,
                       absl::StrCat("parameters[\"task\"]: the model has no task ", Quote(task),
                                    "; it has ", absl::StrJoin(all.tasks, ", ", name), "."));
    }
    all = {{*found}, {}};
    AddOutputs(0, "", all.outputs);
  }
  if (request.outputs().empty() && faults.empty()) return all;

  // Only the tasks that something is wanted of, in the order in which they are named.
  InferencePlan plan;
  for (int i = 0; i < request.outputs_size(); ++i) {
    const auto& wanted = request.outputs(i);
    const std::string where = absl::StrCat("outputs[", i, "].");
    const auto has_name = [&](const InferenceOutput& each) { return each.name == wanted.name(); };
    if (absl::Status status = RefuseSharedMemory(wanted.parameters(), where); !status.ok()) {
      return status;
    }
    const auto found = std::find_if(all.outputs.begin(), all.outputs.end(), has_name);
    if (found == all.outputs.end()) {
      const auto name = [](std::string* out, const auto& each) { out->append(each.name); };
      faults.Add(where + "name",
                 absl::StrCat(Quote(wanted.name()), " is unknown; there are ",
                              absl::StrJoin(all.outputs, ", ", name),
                              all.tasks.size() > 1
                                  ? "; of one task, named by parameters[\"task\"], without its name"
                                  : ""));
      break;  // the others would say the same
    }
    if (std::any_of(plan.outputs.begin(), plan.outputs.end(), has_name)) {
      faults.Add(where + "name", absl::StrCat(Quote(wanted.name()), " is named twice"));
      continue;
    }
    InferenceOutput output = *found;
    const v1::Task* task = all.tasks[output.task];
    output.task = static_cast<int>(std::find(plan.tasks.begin(), plan.tasks.end(), task) -
                                   plan.tasks.begin());
    if (output.task == static_cast<int>(plan.tasks.size())) plan.tasks.push_back(task);
    if (Find(wanted.parameters(), "classification") != nullptr) {
      const uint64_t classes = WholeNumber(wanted.parameters(), "classification", where, faults);
      if (output.kind != InferenceOutput::kProbabilities || classes == 0) {
        faults.Add(where + "parameters[\"classification\"]",
                   "is of probabilities only, and at least 1");
      }
      output.classes = static_cast<int>(std::min<uint64_t>(classes, task->labels_size()));
    }
    plan.outputs.push_back(std::move(output));
  }
  if (!faults.empty()) return faults.ToStatus();
  return plan;
}

void FillInferResponse(const inference::ModelInferRequest& request, const InferencePlan& plan,
                       const v1::ClassifyResponse& answer,
                       inference::ModelInferResponse& response) {
  response.set_model_name(request.model_name());
  if (const auto version = VersionName::Parse(answer.model_version())) {
    response.set_model_version(absl::StrCat(version->version));
  }
  response.set_id(request.id());
  std::vector<Columns> columns(plan.tasks.size());
  for (size_t task = 0; task < plan.tasks.size(); ++task) {
    for (const v1::Label& label : plan.tasks[task]->labels()) {
      columns[task].emplace(label.name(), static_cast<int>(columns[task].size()));
    }
  }
  for (const InferenceOutput& output : plan.outputs) {
    auto& tensor = *response.add_outputs();
    tensor.set_name(output.name);
    tensor.set_datatype(output.datatype());
    const std::vector<int64_t> shape = ShapeOf(plan, output, answer.results_size());
    tensor.mutable_shape()->Assign(shape.begin(), shape.end());
    TensorWriter writer(!request.raw_input_contents().empty(), tensor, response);
    if (output.kind == InferenceOutput::kLabels) {
      for (const v1::Label& label : plan.tasks[output.task]->labels()) {
        writer.Add(absl::string_view(label.name()));
      }
      continue;
    }
    for (const v1::TextPredictions& text : answer.results()) {
      WritePrediction(output, columns[output.task], text.predictions(output.task), writer);
    }
  }
}

void FillTensors(const Tasks& tasks, inference::ModelMetadataResponse& response) {
  const InferencePlan plan = WholePlan(tasks);
  response.set_platform(kInferencePlatform);
  auto& text = *response.add_inputs();
  text.set_name(kTextName);
  text.set_datatype("BYTES");
  text.add_shape(-1);
  for (const InferenceOutput& output : plan.outputs) {
    auto& tensor = *response.add_outputs();
    tensor.set_name(output.name);
    tensor.set_datatype(output.datatype());
    for (const int64_t length : ShapeOf(plan, output, -1)) tensor.add_shape(length);
  }
}

void FillTensors(const Tasks& tasks, inference::ModelConfig& config) {
  const InferencePlan plan = WholePlan(tasks);
  config.set_platform(kInferencePlatform);
  auto& text = *config.add_input();
  text.set_name(kTextName);
  text.set_data_type(inference::TYPE_STRING);
  text.add_dims(-1);
  for (const InferenceOutput& output : plan.outputs) {
    auto& tensor = *config.add_output();
    tensor.set_name(output.name);
    tensor.set_data_type(output.data_type());
    for (const int64_t length : ShapeOf(plan, output, -1)) tensor.add_dims(length);
  }
}

}  // namespace tasuki
