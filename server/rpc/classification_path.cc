#include "server/rpc/classification_path.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "google/protobuf/util/time_util.h"
#include "model/errors/errors.h"
#include "server/rpc/classification.h"
#include "server/rpc/status.h"

namespace tasuki {
namespace {

// About ten milliseconds of tokenising, which every task does anew, with its prefix.
constexpr size_t kLargeRequestBytes = 64 << 10;
constexpr size_t kMaxLargeRequestsWaiting = 16;

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

// A call whose model and tasks are known: prepared on the thread it came on (or on the thread of
// large requests), finished once, on the batcher's thread or wherever it failed.
class Acquired : public std::enable_shared_from_this<Acquired> {
 public:
  Acquired(ClassificationPath::Call call, std::shared_ptr<const LoadedModel> model,
           std::vector<int> tasks)
      : call_(std::move(call)), model_(std::move(model)), tasks_(std::move(tasks)) {}

  size_t BytesToTokenize() const {
    size_t bytes = 0;
    for (const int task : tasks_) {
      bytes +=
          call_.request->ByteSizeLong() +
          call_.request->texts_size() * model_->classifier->manifest().tasks(task).prefix().size();
    }
    return bytes;
  }

  // What is to be refused is refused before it costs anything: an input has a token at least.
  absl::Status Admit(Batcher& batcher) const {
    return batcher.Admit(ToSubmit(),
                         static_cast<int64_t>(call_.request->texts_size() * tasks_.size()));
  }

  void PrepareAndSubmit(Batcher& batcher) {
    const absl::Status status = Catching([&]() -> absl::Status {
      if (absl::Status refused = Admit(batcher); !refused.ok()) return refused;
      const absl::Time start = absl::Now();
      auto inputs = PrepareInputs(*call_.request, *model_, tasks_);
      if (!inputs.ok()) return inputs.status();
      FillInputs(*model_, tasks_, *inputs, *call_.response);
      const absl::Duration took = absl::Now() - start;
      *call_.response->mutable_stage_times()->mutable_tokenize() = ToProto(took);
      model_->metrics->ObserveStage(ModelMetrics::Stage::kTokenize, took);
      Batcher::Request request = ToSubmit();
      request.inputs = *std::move(inputs);
      request.done = [self = shared_from_this()](absl::StatusOr<Batcher::Answer> answer) {
        self->Complete(answer);
      };
      return batcher.Submit(std::move(request));
    });
    if (!status.ok()) End(status);
  }

  void End(const absl::Status& status) {
    if (!call_.waits_for_room || !absl::IsResourceExhausted(status)) {
      model_->metrics->CountTexts(ResultOf(status, call_.deadline), call_.request->texts_size());
    }
    model_.reset();
    call_.done(status);
  }

 private:
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
  std::shared_ptr<const LoadedModel> model_;
  const std::vector<int> tasks_;
};

}  // namespace

ClassificationPath::ClassificationPath(ModelRegistry& registry)
    : registry_(registry), large_requests_(kMaxLargeRequestsWaiting) {}

void ClassificationPath::Run(Call call) {
  std::shared_ptr<const LoadedModel> model;
  std::vector<int> tasks;
  const absl::Status status = Catching([&]() -> absl::Status {
    const v1::ClassifyRequest& request = *call.request;
    if (absl::Status fault = CheckClassifyRequest(request); !fault.ok()) return fault;
    absl::Status fault = Assign(registry_.Acquire(request.model()), &model);
    if (!fault.ok()) return fault;
    fault = Assign(WantedTasks(request, *model), &tasks);
    return fault.ok() ? CheckAnswerSize(request, *model, tasks) : fault;
  });
  if (!status.ok()) {
    model.reset();
    call.done(status);
    return;
  }
  auto acquired = std::make_shared<Acquired>(std::move(call), std::move(model), std::move(tasks));
  if (acquired->BytesToTokenize() <= kLargeRequestBytes) {
    acquired->PrepareAndSubmit(registry_.batcher());
  } else if (absl::Status refused = acquired->Admit(registry_.batcher()); !refused.ok()) {
    acquired->End(refused);
  } else if (!large_requests_.TryRun(
                 [this, acquired] { acquired->PrepareAndSubmit(registry_.batcher()); })) {
    acquired->End(MakeError(absl::StatusCode::kResourceExhausted, v1::QUEUE_FULL,
                            "Too many large requests wait to be read; try again a little later or "
                            "send fewer and shorter texts."));
  }
}

}  // namespace tasuki
