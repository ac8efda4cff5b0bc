#include "server/rpc/classification.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "model/errors/errors.h"
#include "model/text/calibration.h"
#include "model/text/examples.h"
#include "server/rpc/names.h"

namespace tasuki {
namespace {

constexpr size_t kMaxAnswerBytes = 4 << 20;  // what gRPC's receivers take by default

absl::Status LimitExceeded(absl::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, v1::LIMIT_EXCEEDED, message);
}

absl::Status TextTooLong(const LoadedModel& model, int task, int text,
                         const Classifier::Input& input) {
  const internal::ModelManifest& manifest = model.classifier->manifest();
  return MakeError(absl::StatusCode::kInvalidArgument, v1::TEXT_TOO_LONG,
                   absl::StrCat("texts[", text, "] has ", input.token_count, " tokens for task \"",
                                manifest.tasks(task).name(), "\", and ", model.name, " takes ",
                                manifest.max_input_tokens(),
                                ": shorten it, or let it be cut by another truncation than ERROR."),
                   {{"text", absl::StrCat(text)},
                    {"task", manifest.tasks(task).name()},
                    {"tokens", absl::StrCat(input.token_count)},
                    {"limit", absl::StrCat(manifest.max_input_tokens())}});
}

}  // namespace

absl::Status CheckClassifyRequest(const v1::ClassifyRequest& request) {
  if (absl::Status status = CheckServedName(request.model(), "model"); !status.ok()) {
    return status;
  }
  Faults faults;
  if (request.texts().empty()) {
    faults.Add("texts", absl::StrCat("is empty; 1 to ", kMaxTexts, " texts are wanted"));
  }
  if (request.top_k() < 0) {
    faults.Add("top_k", absl::StrCat(request.top_k(), " is negative; 0 wants all labels"));
  }
  if (!v1::ClassifyRequest::Truncation_IsValid(request.truncation())) {
    faults.Add("truncation", absl::StrCat("there is no value ", request.truncation()));
  }
  if (!v1::ClassifyRequest::Priority_IsValid(request.priority())) {
    faults.Add("priority", absl::StrCat("there is no value ", request.priority()));
  }
  if (!faults.empty()) return faults.ToStatus();
  if (request.texts_size() > kMaxTexts) {
    return LimitExceeded(absl::StrCat("texts has ", request.texts_size(), " entries; at most ",
                                      kMaxTexts, " go into one call."));
  }
  for (int i = 0; i < request.texts_size(); ++i) {
    if (request.texts(i).size() > kMaxTextBytes) {
      return LimitExceeded(absl::StrCat("texts[", i, "] has ", request.texts(i).size(),
                                        " bytes; at most ", kMaxTextBytes, " are allowed."));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int>> WantedTasks(const v1::ClassifyRequest& request,
                                             const LoadedModel& model) {
  const auto& known = model.classifier->manifest().tasks();
  if (request.tasks().empty()) {
    std::vector<int> all(known.size());
    std::iota(all.begin(), all.end(), 0);
    return all;
  }
  std::vector<int> tasks;
  for (const std::string& name : request.tasks()) {
    const int task = model.classifier->TaskIndex(name);
    if (task < 0) {
      const std::string names = absl::StrJoin(
          known, ", ",
          [](std::string* out, const v1::Task& each) { absl::StrAppend(out, each.name()); });
      return MakeError(absl::StatusCode::kInvalidArgument, v1::TASK_UNKNOWN,
                       absl::StrCat(model.name, " has no task \"", name.substr(0, 100),
                                    "\"; it has ", names, "."),
                       {{"model_version", model.name}, {"tasks", names}});
    }
    if (std::find(tasks.begin(), tasks.end(), task) != tasks.end()) {
      Faults faults;
      faults.Add("tasks", absl::StrCat("\"", name, "\" is named twice"));
      return faults.ToStatus();
    }
    tasks.push_back(task);
  }
  return tasks;
}

absl::Status CheckAnswerSize(const v1::ClassifyRequest& request, const LoadedModel& model,
                             const std::vector<int>& tasks) {
  // Tags, lengths and numbers of each message at their longest, beside its texts.
  constexpr size_t kResponseBytes = 1024, kResultBytes = 8, kPredictionBytes = 24, kScoreBytes = 24;
  size_t bytes = kResultBytes;
  for (const int index : tasks) {
    const v1::Task& task = model.classifier->manifest().tasks(index);
    size_t longest = 0, all = 0;
    for (const v1::Label& label : task.labels()) {
      all += label.name().size() + kScoreBytes;
      longest = std::max(longest, label.name().size());
    }
    const size_t first = static_cast<size_t>(request.top_k()) * (longest + kScoreBytes);
    bytes += request.top_k() > 0 ? std::min(all, first) : all;
    bytes += task.name().size() + longest + kPredictionBytes;
  }
  const size_t fit = (kMaxAnswerBytes - kResponseBytes) / bytes;
  if (static_cast<size_t>(request.texts_size()) <= fit) return absl::OkStatus();
  return LimitExceeded(
      absl::StrCat("texts has ", request.texts_size(), " entries; the scores of ", fit,
                   " at most go into one answer for these tasks: send fewer texts, name fewer "
                   "tasks, or set top_k."));
}

absl::StatusOr<std::vector<Classifier::Input>> PrepareInputs(const v1::ClassifyRequest& request,
                                                             const LoadedModel& model,
                                                             const std::vector<int>& tasks) {
  const auto truncation = request.truncation() == v1::ClassifyRequest::HEAD_AND_TAIL
                              ? Classifier::Truncation::kHeadAndTail
                              : Classifier::Truncation::kHead;
  std::vector<Classifier::Input> inputs;
  inputs.reserve(static_cast<size_t>(request.texts_size()) * tasks.size());
  for (int i = 0; i < request.texts_size(); ++i) {
    for (const int task : tasks) {
      auto input = model.classifier->Prepare(task, request.texts(i), truncation);
      if (!input.ok()) return Annotate(input.status(), absl::StrCat("texts[", i, "]: "));
      if (input->truncated && request.truncation() == v1::ClassifyRequest::ERROR) {
        return TextTooLong(model, task, i, *input);
      }
      inputs.push_back(*std::move(input));
    }
  }
  return inputs;
}

void FillInputs(const LoadedModel& model, const std::vector<int>& tasks,
                const std::vector<Classifier::Input>& inputs, v1::ClassifyResponse& response) {
  response.set_model_version(model.name);
  const auto& known = model.classifier->manifest().tasks();
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (i % tasks.size() == 0) response.add_results();
    const int task = tasks[i % tasks.size()];
    v1::Prediction& prediction =
        *response.mutable_results(response.results_size() - 1)->add_predictions();
    prediction.set_task(known[task].name());
    prediction.set_token_count(inputs[i].token_count);
    prediction.set_truncated(inputs[i].truncated);
    model.metrics->ObserveInput(static_cast<int64_t>(inputs[i].tokens.size()), inputs[i].truncated);
  }
}

void FillScores(const LoadedModel& model, const std::vector<int>& tasks,
                const std::vector<std::vector<float>>& scores, int top_k,
                v1::ClassifyResponse& response) {
  const internal::ModelManifest& manifest = model.classifier->manifest();
  std::vector<v1::Calibration> calibrations;
  for (const int task : tasks) {
    calibrations.push_back(CalibrationOf(manifest.calibrations(), manifest.tasks(task).name()));
  }
  for (size_t i = 0; i < scores.size(); ++i) {
    const size_t within = i % tasks.size();
    const v1::Task& task = manifest.tasks(tasks[within]);
    const v1::Calibration& calibration = calibrations[within];
    const std::vector<double> probabilities = Probabilities(scores[i], calibration.temperature());
    std::vector<int> order(probabilities.size());
    std::iota(order.begin(), order.end(), 0);
    // Equal ones stay in the task's order.
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return probabilities[a] > probabilities[b]; });
    v1::Prediction& prediction = *response.mutable_results(static_cast<int>(i / tasks.size()))
                                      ->mutable_predictions(static_cast<int>(within));
    const size_t wanted = top_k > 0 ? std::min<size_t>(top_k, order.size()) : order.size();
    for (const int label : absl::MakeConstSpan(order).first(wanted)) {
      v1::LabelScore& score = *prediction.add_scores();
      score.set_label(task.labels(label).name());
      score.set_probability(probabilities[label]);
      score.set_log_probability(scores[i][label]);
    }
    prediction.set_label(task.labels(order[0]).name());
    prediction.set_abstained(calibration.has_abstain_threshold() &&
                             probabilities[order[0]] < calibration.abstain_threshold());
    model.metrics->CountPrediction(tasks[within], order[0], probabilities[order[0]]);
  }
}

}  // namespace tasuki
