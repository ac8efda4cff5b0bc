#include "server/rpc/classification_service.h"

#include <atomic>
#include <memory>
#include <utility>

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

// One call: prepared on the thread it came on (or on the thread of large requests), finished once,
// on the batcher's thread or wherever it failed.
class ClassifyCall : public grpc::ServerUnaryReactor {
 public:
  ClassifyCall(grpc::CallbackServerContext* context, const v1::ClassifyRequest* request,
               v1::ClassifyResponse* response, std::shared_ptr<const LoadedModel> model,
               std::vector<int> tasks)
      : deadline_(absl::FromChrono(context->deadline())),
        request_(*request),
        response_(*response),
        model_(std::move(model)),
        tasks_(std::move(tasks)),
        cancelled_(std::make_shared<std::atomic<bool>>(false)) {}

  void PrepareAndSubmit(Batcher& batcher) {
    const absl::Status status = Catching([&]() -> absl::Status {
      const absl::Time start = absl::Now();
      auto inputs = PrepareInputs(request_, *model_, tasks_);
      if (!inputs.ok()) return inputs.status();
      FillInputs(*model_, tasks_, *inputs, response_);
      model_->metrics->ObserveStage(ModelMetrics::Stage::kTokenize, absl::Now() - start);
      return batcher.Submit({model_, *std::move(inputs), deadline_, cancelled_,
                             [this](auto scores) { Complete(std::move(scores)); }});
    });
    // If it was taken, the call may be over and freed by now.
    if (!status.ok()) End(status);
  }

  void End(const absl::Status& status) {
    model_->metrics->CountTexts(ResultOf(status), request_.texts_size());
    // Before the caller hears of it: who unloads a model waits for its last handle.
    model_.reset();
    Finish(ToGrpcStatus(status));
  }

  void OnCancel() override { cancelled_->store(true); }
  void OnDone() override { delete this; }

 private:
  void Complete(absl::StatusOr<std::vector<std::vector<float>>> scores) {
    End(Catching([&] {
      if (scores.ok()) FillScores(*model_, tasks_, *scores, response_);
      return scores.status();
    }));
  }

  const absl::Time deadline_;
  const v1::ClassifyRequest& request_;
  v1::ClassifyResponse& response_;
  std::shared_ptr<const LoadedModel> model_;
  const std::vector<int> tasks_;
  const std::shared_ptr<std::atomic<bool>> cancelled_;
};

}  // namespace

ClassificationService::ClassificationService(ModelRegistry& registry)
    : registry_(registry), large_requests_(kMaxLargeRequestsWaiting) {}

grpc::ServerUnaryReactor* ClassificationService::Classify(grpc::CallbackServerContext* context,
                                                          const v1::ClassifyRequest* request,
                                                          v1::ClassifyResponse* response) {
  std::shared_ptr<const LoadedModel> model;
  std::vector<int> tasks;
  const absl::Status status = Catching([&]() -> absl::Status {
    if (absl::Status fault = CheckClassifyRequest(*request); !fault.ok()) return fault;
    auto acquired = registry_.Acquire(request->model());
    if (!acquired.ok()) return acquired.status();
    model = *std::move(acquired);
    absl::Status fault = Assign(WantedTasks(*request, *model), &tasks);
    return fault.ok() ? CheckAnswerSize(*request, *model, tasks) : fault;
  });
  if (!status.ok()) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpcStatus(status));
    return reactor;
  }
  size_t bytes = 0;
  for (const int task : tasks) {
    bytes += request->ByteSizeLong() +
             request->texts_size() * model->classifier->manifest().tasks(task).prefix().size();
  }
  auto* call = new ClassifyCall(context, request, response, std::move(model), std::move(tasks));
  if (bytes <= kLargeRequestBytes) {
    call->PrepareAndSubmit(registry_.batcher());
  } else if (!large_requests_.TryRun(
                 [this, call] { call->PrepareAndSubmit(registry_.batcher()); })) {
    call->End(MakeError(absl::StatusCode::kResourceExhausted, v1::QUEUE_FULL,
                        "Too many large requests wait to be read; try again a little later or "
                        "send fewer and shorter texts."));
  }
  return call;
}

}  // namespace tasuki
