#include "server/rpc/classification_path.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "google/protobuf/util/time_util.h"
#include "model/errors/errors.h"
#include "server/rpc/classification.h"
#include "server/rpc/status.h"

namespace tasuki {
namespace {

// About half a millisecond of tokenising, which every task does anew, with its prefix.
constexpr int64_t kLargeRequestBytes = 4 << 10;
// A few seconds of it.
constexpr size_t kMaxBytesWaiting = 16 << 20;
// A shadow is for comparison: it takes neither much memory nor much patience.
constexpr size_t kMaxShadowedBytes = 1 << 20;
constexpr absl::Duration kShadowPatience = absl::Seconds(10);

ModelMetrics::Result ResultOf(const absl::Status& status, absl::Time deadline) {
  if (status.ok()) {
    return absl::Now() < deadline ? ModelMetrics::Result::kOk : ModelMetrics::Result::kLate;
  }
  if (absl::IsCancelled(status)) return ModelMetrics::Result::kCancelled;
  if (absl::IsDeadlineExceeded(status)) return ModelMetrics::Result::kExpired;
  if (absl::IsResourceExhausted(status) || absl::IsUnavailable(status)) {
    return ModelMetrics::Result::kRejected;
  }
  return ModelMetrics::Result::kError;
}

Priority PriorityOf(const ClassificationPath::Call& call) {
  switch (call.request->priority()) {
    case v1::ClassifyRequest::INTERACTIVE:
      return Priority::kInteractive;
    case v1::ClassifyRequest::BULK:
      return Priority::kBulk;
    default:
      return call.usual_priority;
  }
}

google::protobuf::Duration ToProto(absl::Duration duration) {
  return google::protobuf::util::TimeUtil::NanosecondsToDuration(
      std::max<int64_t>(0, absl::ToInt64Nanoseconds(duration)));
}

// A request as its shadow gets it, with the labels that were answered.
struct Shadowed {
  std::shared_ptr<const LoadedModel> model;
  v1::ClassifyRequest request;
  std::vector<std::string> labels;  // text by text, task by task

  // Has `batcher` compute the request by the shadow's model, behind all that is interactive, and
  // counts where its labels differ.
  static void Compare(std::shared_ptr<Shadowed> self, Batcher& batcher) {
    const auto skip = [&] {
      self->model->metrics->CountShadow(0, 0, static_cast<int64_t>(self->labels.size()));
    };
    const absl::Status status = Catching([&]() -> absl::Status {
      const auto tasks = WantedTasks(self->request, *self->model);
      if (!tasks.ok()) return tasks.status();
      auto inputs = PrepareInputs(self->request, *self->model, *tasks);
      if (!inputs.ok()) return inputs.status();
      Batcher::Request compare;
      compare.model = self->model;
      compare.inputs = *std::move(inputs);
      compare.deadline = absl::Now() + kShadowPatience;
      compare.caller = "shadows";
      compare.priority = Priority::kBulk;
      compare.done = [self, tasks = *tasks](const absl::StatusOr<Batcher::Answer>& answer) {
        self->Count(tasks, answer);
      };
      return batcher.Submit(std::move(compare));
    });
    if (!status.ok()) skip();
  }

  void Count(const std::vector<int>& tasks, const absl::StatusOr<Batcher::Answer>& answer) const {
    const auto all = static_cast<int64_t>(labels.size());
    if (!answer.ok() || answer->scores.size() != labels.size()) {
      return model->metrics->CountShadow(0, 0, all);
    }
    int64_t same = 0;
    for (size_t i = 0; i < labels.size(); ++i) {
      const std::vector<float>& scores = answer->scores[i];
      const v1::Task& task = model->classifier->manifest().tasks(tasks[i % tasks.size()]);
      const auto best = std::max_element(scores.begin(), scores.end()) - scores.begin();
      same += task.labels(static_cast<int>(best)).name() == labels[i];
    }
    model->metrics->CountShadow(same, all - same, 0);
  }
};

// A call whose model and tasks are known: prepared on the thread it came on (or on the thread of
// large requests), finished once, on the batcher's thread or wherever it failed.
class Acquired : public std::enable_shared_from_this<Acquired> {
 public:
  Acquired(ClassificationPath::Call call, AcquiredModel model, std::vector<int> tasks,
           Batcher& batcher, WorkThread& work)
      : call_(std::move(call)),
        model_(std::move(model.model)),
        shadow_(std::move(model.shadow)),
        tasks_(std::move(tasks)),
        batcher_(batcher),
        work_(work) {}

  // Of every input, prefix included.
  std::vector<int64_t> InputBytes() const {
    std::vector<int64_t> bytes;
    bytes.reserve(call_.request->texts_size() * tasks_.size());
    for (const std::string& text : call_.request->texts()) {
      for (const int task : tasks_) {
        const v1::Task& known = model_->classifier->manifest().tasks(task);
        bytes.push_back(static_cast<int64_t>(text.size() + known.prefix().size()));
      }
    }
    return bytes;
  }

  // What is to be refused is refused before it costs anything.
  absl::Status Admit(const std::vector<int64_t>& input_bytes) const {
    return batcher_.Admit(ToSubmit(), input_bytes);
  }

  void PrepareAndSubmit(int64_t bytes) {
    const absl::Status status = Catching([&]() -> absl::Status {
      const absl::Time start = absl::Now();
      auto inputs = PrepareInputs(*call_.request, *model_, tasks_);
      if (!inputs.ok()) return inputs.status();
      FillInputs(*model_, tasks_, *inputs, *call_.response);
      const absl::Duration took = absl::Now() - start;
      *call_.response->mutable_stage_times()->mutable_tokenize() = ToProto(took);
      model_->metrics->ObserveStage(ModelMetrics::Stage::kTokenize, took);
      Batcher::Request request = ToSubmit();
      request.inputs = *std::move(inputs);
      request.bytes = bytes;
      request.done = [self = shared_from_this()](const absl::StatusOr<Batcher::Answer>& answer) {
        self->Complete(answer);
      };
      return batcher_.Submit(std::move(request));
    });
    if (!status.ok()) End(status);
  }

  void End(const absl::Status& status) {
    if (!call_.waits_for_room || !absl::IsResourceExhausted(status)) {
      model_->metrics->CountRequest(ResultOf(status, call_.deadline), call_.request->texts_size(),
                                    absl::Now() - arrival_);
    }
    if (shadow_ != nullptr && status.ok()) StartShadow();
    shadow_.reset();
    model_.reset();
    call_.done(status);
  }

 private:
  void StartShadow() {
    auto shadowed = std::make_shared<Shadowed>();
    shadowed->model = shadow_;
    for (const auto& text : call_.response->results()) {
      for (const auto& prediction : text.predictions()) {
        shadowed->labels.push_back(prediction.label());
      }
    }
    const size_t bytes = call_.request->ByteSizeLong();
    const bool small = bytes <= kMaxShadowedBytes;
    if (small) {
      shadowed->request = *call_.request;
      shadowed->request.clear_tasks();
      for (const int task : tasks_) {
        shadowed->request.add_tasks(model_->classifier->manifest().tasks(task).name());
      }
    }
    if (!small || !work_.TryRun(bytes, [shadowed, &batcher = batcher_] {
          Shadowed::Compare(shadowed, batcher);
        })) {
      shadow_->metrics->CountShadow(0, 0, static_cast<int64_t>(shadowed->labels.size()));
    }
  }

  // Without inputs.
  Batcher::Request ToSubmit() const {
    Batcher::Request request;
    request.model = model_;
    request.deadline = call_.deadline;
    request.cancelled = call_.cancelled;
    request.caller = call_.caller;
    request.priority = PriorityOf(call_);
    request.waits_for_room = call_.waits_for_room;
    return request;
  }

  void Complete(const absl::StatusOr<Batcher::Answer>& answer) {
    End(Catching([&] {
      if (!answer.ok()) return answer.status();
      FillScores(*model_, tasks_, answer->scores, call_.request->top_k(), *call_.response);
      v1::StageTimes& times = *call_.response->mutable_stage_times();
      *times.mutable_queue() = ToProto(answer->queue);
      *times.mutable_forward() = ToProto(answer->forward);
      return absl::OkStatus();
    }));
  }

  const ClassificationPath::Call call_;
  const absl::Time arrival_ = absl::Now();
  std::shared_ptr<const LoadedModel> model_;
  std::shared_ptr<const LoadedModel> shadow_;  // or null
  const std::vector<int> tasks_;
  Batcher& batcher_;
  WorkThread& work_;
};

}  // namespace

ClassificationPath::ClassificationPath(ModelRegistry& registry)
    : registry_(registry), work_(kMaxBytesWaiting) {}

void ClassificationPath::Run(Call call) {
  const absl::Status status = Catching([&] { return CheckClassifyRequest(*call.request); });
  if (!status.ok()) return call.done(status);
  const std::string& name = call.request->model();
  registry_.Acquire(name, [this, call = std::move(call)](absl::StatusOr<AcquiredModel> model) {
    if (!model.ok()) return call.done(model.status());
    Submit(call, *std::move(model));
  });
}

void ClassificationPath::Run(Call call, AcquiredModel model) {
  const absl::Status status = Catching([&] { return CheckClassifyRequest(*call.request); });
  if (!status.ok()) {
    model = {};
    return call.done(status);
  }
  Submit(std::move(call), std::move(model));
}

void ClassificationPath::Submit(Call call, AcquiredModel model) {
  std::vector<int> tasks;
  const absl::Status status = Catching([&]() -> absl::Status {
    absl::Status fault = Assign(WantedTasks(*call.request, *model.model), &tasks);
    return fault.ok() ? CheckAnswerSize(*call.request, *model.model, tasks) : fault;
  });
  if (!status.ok()) {
    model = {};  // lets go of it before the caller hears
    return call.done(status);
  }
  auto acquired = std::make_shared<Acquired>(std::move(call), std::move(model), std::move(tasks),
                                             registry_.batcher(), work_);
  const std::vector<int64_t> inputs = acquired->InputBytes();
  const int64_t bytes = std::accumulate(inputs.begin(), inputs.end(), int64_t{0});
  if (absl::Status refused = acquired->Admit(inputs); !refused.ok()) {
    acquired->End(refused);
  } else if (bytes <= kLargeRequestBytes) {
    acquired->PrepareAndSubmit(bytes);
  } else if (!work_.TryRun(bytes, [acquired, bytes, inputs] {
               // What expired while it waited for this is not tokenised.
               const absl::Status still = acquired->Admit(inputs);
               still.ok() ? acquired->PrepareAndSubmit(bytes) : acquired->End(still);
             })) {
    acquired->End(MakeError(absl::StatusCode::kResourceExhausted, v1::QUEUE_FULL,
                            "Too many large requests wait to be read; try again a little later or "
                            "send fewer and shorter texts."));
  }
}

}  // namespace tasuki
