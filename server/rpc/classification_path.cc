#include "server/rpc/classification_path.h"

#include <utility>
#include <vector>

#include "model/errors/errors.h"
#include "server/rpc/classification.h"
#include "server/rpc/status.h"

namespace tasuki {
namespace {

// About ten milliseconds of tokenising, which every task does anew, with its prefix.
constexpr size_t kLargeRequestBytes = 64 << 10;
constexpr size_t kMaxLargeRequestsWaiting = 16;

ModelMetrics::Result ResultOf(const absl::Status& status) {
  if (status.ok()) return ModelMetrics::Result::kOk;
  if (absl::IsCancelled(status)) return ModelMetrics::Result::kCancelled;
  if (absl::IsDeadlineExceeded(status)) return ModelMetrics::Result::kExpired;
  if (absl::IsResourceExhausted(status) || absl::IsUnavailable(status)) {
    return ModelMetrics::Result::kRejected;
  }
  return ModelMetrics::Result::kError;
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

  void PrepareAndSubmit(Batcher& batcher) {
    const absl::Status status = Catching([&]() -> absl::Status {
      const absl::Time start = absl::Now();
      auto inputs = PrepareInputs(*call_.request, *model_, tasks_);
      if (!inputs.ok()) return inputs.status();
      FillInputs(*model_, tasks_, *inputs, *call_.response);
      model_->metrics->ObserveStage(ModelMetrics::Stage::kTokenize, absl::Now() - start);
      return batcher.Submit(
          {model_, *std::move(inputs), call_.deadline, call_.cancelled,
           [self = shared_from_this()](auto scores) { self->Complete(std::move(scores)); }});
    });
    if (!status.ok()) End(status);
  }

  void End(const absl::Status& status) {
    model_->metrics->CountRequest(ResultOf(status), call_.request->texts_size(),
                                  absl::Now() - arrival_);
    model_.reset();
    call_.done(status);
  }

 private:
  void Complete(absl::StatusOr<std::vector<std::vector<float>>> scores) {
    End(Catching([&] {
      if (scores.ok()) FillScores(*model_, tasks_, *scores, *call_.response);
      return scores.status();
    }));
  }

  const ClassificationPath::Call call_;
  const absl::Time arrival_ = absl::Now();
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
  } else if (!large_requests_.TryRun(
                 [this, acquired] { acquired->PrepareAndSubmit(registry_.batcher()); })) {
    acquired->End(MakeError(absl::StatusCode::kResourceExhausted, v1::QUEUE_FULL,
                            "Too many large requests wait to be read; try again a little later or "
                            "send fewer and shorter texts."));
  }
}

}  // namespace tasuki
