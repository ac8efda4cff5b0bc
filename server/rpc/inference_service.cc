#include "server/rpc/inference_service.h"

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "model/errors/errors.h"
#include "server/rpc/inference.h"
#include "server/rpc/status.h"
#include "server/serving/batcher.h"
#include "server/serving/version_name.h"

namespace tasuki {
namespace {

// Of one stream's requests so many are under way at once: two, so that one is read while another is
// computed, and more while they are small, to share forward passes. Far less than a queue holds.
constexpr size_t kMinUnanswered = 2;
constexpr size_t kMaxUnanswered = 64;
constexpr size_t kMaxUnansweredBytes = 64 << 10;
constexpr int kPage = 1000;

class InferReactor : public grpc::ServerUnaryReactor {
 public:
  std::shared_ptr<const std::atomic<bool>> cancelled() const { return cancelled_; }
  void OnCancel() override { cancelled_->store(true); }
  void OnDone() override { delete this; }

 private:
  const std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
};

std::string WithoutCollection(const std::string& model) {
  return model.substr(model.find('/') + 1);  // `models/{model}`
}

const char* StateName(v1::ModelVersion::State state) {
  switch (state) {
    case v1::ModelVersion::LOADED:
    case v1::ModelVersion::STANDBY:  // a request brings it into memory
      return "READY";
    case v1::ModelVersion::LOADING:
      return "LOADING";
    default:
      return "UNAVAILABLE";
  }
}

std::string ReasonOfState(const v1::ModelVersion& version) {
  if (version.tasks().empty()) return "a base model, which has no task";
  if (version.state() == v1::ModelVersion::UNLOADED) return "unloaded";
  return version.state_reason();
}

void Set(const ModelMetrics::Totals::Timed& timed, inference::StatisticDuration& to) {
  to.set_count(timed.count);
  to.set_ns(absl::ToInt64Nanoseconds(timed.time));
}

void Set(const ModelMetrics::Totals& totals, inference::ModelStatistics& to) {
  to.set_last_inference(absl::ToUnixMillis(totals.last_end));
  to.set_inference_count(totals.texts);
  to.set_execution_count(totals.forward.count);
  auto& stats = *to.mutable_inference_stats();
  Set(totals.ok, *stats.mutable_success());
  Set(totals.failed, *stats.mutable_fail());
  Set(totals.queue, *stats.mutable_queue());
  Set(totals.tokenize, *stats.mutable_compute_input());
  Set(totals.forward, *stats.mutable_compute_infer());
}

// The model of a load or an unload: KServe's clients have it where Triton's name the repository.
template <typename Request>
const std::string& ModelIn(const Request& request) {
  return request.model_name().empty() ? request.repository_name() : request.model_name();
}

}  // namespace

// A ModelInfer, or one request of a stream.
struct InferenceService::Inference {
  Call call;
  InferenceOrder order;
  // Until it is answered, so that the plan's tasks stay.
  std::shared_ptr<const LoadedModel> model;
  InferencePlan plan;
  v1::ClassifyResponse answer;
};

// Reads a request while those before it that are unanswered are few or small, and writes answers in
// the order of the requests. It ends when the client has no more, or when the server drains, and in
// either case after the last answer, which nothing but a broken connection keeps from being
// written.
class InferenceService::Stream
    : public grpc::ServerBidiReactor<inference::ModelInferRequest,
                                     inference::ModelStreamInferResponse> {
 public:
  Stream(InferenceService& service, grpc::CallbackServerContext& context, bool draining)
      : service_(service), context_(context), draining_(draining) {}

  void Begin() { Go(); }
  void Drain() {
    {
      absl::MutexLock lock(&mutex_);
      draining_ = true;
    }
    Go();
  }

  void OnReadDone(bool ok) override {
    Turn* turn = nullptr;
    {
      absl::MutexLock lock(&mutex_);
      reading_ = false;
      if (ok && !finished_) {
        turns_.push_back(std::move(next_));
        turn = turns_.back().get();
        turn->bytes = turn->request.ByteSizeLong();
        unanswered_bytes_ += turn->bytes;
      } else {
        read_all_ = true;
      }
    }
    if (turn != nullptr) {
      service_.Infer({&turn->request, turn->answer.mutable_infer_response(),
                      absl::FromChrono(context_.deadline()), context_.peer(), cancelled_,
                      [this, turn](const absl::Status& status) { Answered(*turn, status); }});
    }
    Go();
  }
  void OnWriteDone(bool ok) override {
    if (!ok) cancelled_->store(true);  // nobody reads the rest
    {
      absl::MutexLock lock(&mutex_);
      writing_ = false;
      unanswered_bytes_ -= turns_.front()->bytes;
      turns_.pop_front();
    }
    Go();
  }
  void OnCancel() override { cancelled_->store(true); }
  void OnDone() override {
    absl::MutexLock lock(&service_.mutex_);
    service_.streams_.erase(this);
  }

 private:
  struct Turn {
    inference::ModelInferRequest request;
    size_t bytes = 0;  // of the request
    inference::ModelStreamInferResponse answer;
    bool answered = false;
  };

  void Answered(Turn& turn, const absl::Status& status) {
    auto& response = *turn.answer.mutable_infer_response();
    if (!status.ok()) {
      response.Clear();
      response.set_id(turn.request.id());
      turn.answer.set_error_message(ToGrpcStatus(status).error_message());
    }
    (*response.mutable_parameters())["triton_final_response"].set_bool_param(true);
    Go(&turn);
  }

  // Starts whatever can be started, after `answered` is that. Its thread may be none of gRPC's, and
  // gRPC takes nothing more after Finish, which therefore comes from the last thread that is in
  // here.
  void Go(Turn* answered = nullptr) ABSL_LOCKS_EXCLUDED(mutex_) {
    Turn* to_write = nullptr;
    Turn* to_read = nullptr;
    {
      absl::MutexLock lock(&mutex_);
      if (answered != nullptr) answered->answered = true;
      if (finished_) return;
      ++starting_;
      if (!writing_ && !turns_.empty() && turns_.front()->answered) {
        writing_ = true;
        to_write = turns_.front().get();
      }
      if (!reading_ && !read_all_ && !draining_ &&
          (turns_.size() < kMinUnanswered ||
           (turns_.size() < kMaxUnanswered && unanswered_bytes_ < kMaxUnansweredBytes))) {
        reading_ = true;
        next_ = std::make_unique<Turn>();
        to_read = next_.get();
      }
    }
    // Without the lock, for gRPC may react at once.
    if (to_write != nullptr) StartWrite(&to_write->answer);
    if (to_read != nullptr) StartRead(&to_read->request);
    grpc::Status end;
    {
      absl::MutexLock lock(&mutex_);
      if (--starting_ > 0 || finished_ || !turns_.empty() || !(read_all_ || draining_)) return;
      finished_ = true;
      if (!read_all_) end = ToGrpcStatus(DrainingError());
    }
    Finish(end);
  }

  InferenceService& service_;
  grpc::CallbackServerContext& context_;  // lives until OnDone
  const std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);

  absl::Mutex mutex_;
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;  // the first of turns_
  bool read_all_ ABSL_GUARDED_BY(mutex_) = false;
  bool draining_ ABSL_GUARDED_BY(mutex_);
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<std::unique_ptr<Turn>> turns_ ABSL_GUARDED_BY(mutex_);  // in the order of the requests
  size_t unanswered_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::unique_ptr<Turn> next_ ABSL_GUARDED_BY(mutex_);  // what is being read
  int starting_ ABSL_GUARDED_BY(mutex_) = 0;            // threads in Go
};

InferenceService::InferenceService(ClassificationPath& path, ModelRegistry& registry,
                                   ModelTable& table)
    : path_(path), registry_(registry), table_(table) {}

void InferenceService::Drain() {
  std::vector<std::shared_ptr<Stream>> streams;
  {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
    for (const auto& [key, stream] : streams_) streams.push_back(stream);
  }
  for (const auto& stream : streams) stream->Drain();
}

void InferenceService::Infer(Call call) {
  auto inference = std::make_shared<Inference>();
  inference->call = std::move(call);
  const absl::Status status = Catching(
      [&] { return Assign(ReadInferRequest(*inference->call.request), &inference->order); });
  if (!status.ok()) return inference->call.done(status);
  const std::string model = inference->order.request.model();
  registry_.Acquire(model, [this, inference](absl::StatusOr<AcquiredModel> acquired) {
    Classify(inference, std::move(acquired));
  });
}

void InferenceService::Classify(const std::shared_ptr<Inference>& inference,
                                absl::StatusOr<AcquiredModel> acquired) {
  const Call& call = inference->call;
  v1::ClassifyRequest& request = inference->order.request;
  const absl::Status status = Catching([&]() -> absl::Status {
    if (!acquired.ok()) return acquired.status();
    inference->model = acquired->model;
    const auto& tasks = inference->model->classifier->manifest().tasks();
    absl::Status fault = Assign(PlanInference(*call.request, tasks), &inference->plan);
    if (!fault.ok()) return fault;
    for (const v1::Task* task : inference->plan.tasks) request.add_tasks(task->name());
    return absl::OkStatus();
  });
  if (!status.ok()) {
    acquired = status;
    inference->model.reset();
    return call.done(status);
  }
  ClassificationPath::Call classify;
  classify.request = &request;
  classify.response = &inference->answer;
  classify.deadline = std::min(call.deadline, absl::Now() + inference->order.timeout);
  classify.caller = call.caller;
  classify.cancelled = call.cancelled;
  classify.done = [inference](const absl::Status& classified) {
    const absl::Status end = Catching([&] {
      if (classified.ok()) {
        FillInferResponse(*inference->call.request, inference->plan, inference->answer,
                          *inference->call.response);
      }
      return classified;
    });
    inference->model.reset();
    inference->call.done(end);
  };
  path_.Run(std::move(classify), *std::move(acquired));
}

grpc::ServerUnaryReactor* InferenceService::ModelInfer(grpc::CallbackServerContext* context,
                                                       const inference::ModelInferRequest* request,
                                                       inference::ModelInferResponse* response) {
  auto* reactor = new InferReactor;
  Infer({request, response, absl::FromChrono(context->deadline()), context->peer(),
         reactor->cancelled(),
         // The last use of the reactor: it may be gone when Finish returns.
         [reactor](const absl::Status& status) { reactor->Finish(ToGrpcStatus(status)); }});
  return reactor;
}

grpc::ServerBidiReactor<inference::ModelInferRequest, inference::ModelStreamInferResponse>*
InferenceService::ModelStreamInfer(grpc::CallbackServerContext* context) {
  std::shared_ptr<Stream> stream;
  {
    absl::MutexLock lock(&mutex_);
    stream = std::make_shared<Stream>(*this, *context, draining_);
    streams_.emplace(stream.get(), stream);
  }
  stream->Begin();
  return stream.get();
}

grpc::Status InferenceService::ServerLive(grpc::ServerContext*, const inference::ServerLiveRequest*,
                                          inference::ServerLiveResponse* response) {
  response->set_live(true);
  return grpc::Status::OK;
}

grpc::Status InferenceService::ServerReady(grpc::ServerContext*,
                                           const inference::ServerReadyRequest*,
                                           inference::ServerReadyResponse* response) {
  absl::MutexLock lock(&mutex_);
  response->set_ready(!draining_);
  return grpc::Status::OK;
}

absl::StatusOr<std::shared_ptr<const LoadedModel>> InferenceService::Acquire(
    const std::string& name, const std::string& version) {
  const absl::StatusOr<std::string> resource = ModelResourceName(name, version);
  if (!resource.ok()) return resource.status();
  absl::StatusOr<AcquiredModel> acquired;
  absl::Notification done;
  registry_.Acquire(*resource, [&](absl::StatusOr<AcquiredModel> model) {
    acquired = std::move(model);
    done.Notify();
  });
  done.WaitForNotification();
  if (!acquired.ok()) return acquired.status();
  return acquired->model;
}

grpc::Status InferenceService::ModelReady(grpc::ServerContext*,
                                          const inference::ModelReadyRequest* request,
                                          inference::ModelReadyResponse* response) {
  return Answer([&] {
    response->set_ready(Acquire(request->name(), request->version()).ok());
    return absl::OkStatus();
  });
}

grpc::Status InferenceService::ServerMetadata(grpc::ServerContext*,
                                              const inference::ServerMetadataRequest*,
                                              inference::ServerMetadataResponse* response) {
  response->set_name("tasuki");
  response->set_version(TASUKI_VERSION);
  for (const char* extension : {"classification", "model_configuration", "model_repository",
                                "parameters", "schedule_policy", "statistics"}) {
    response->add_extensions(extension);
  }
  return grpc::Status::OK;
}

grpc::Status InferenceService::ModelMetadata(grpc::ServerContext*,
                                             const inference::ModelMetadataRequest* request,
                                             inference::ModelMetadataResponse* response) {
  return Answer([&] {
    const auto model = Acquire(request->name(), request->version());
    if (!model.ok()) return model.status();
    response->set_name(request->name());
    for (const std::string& loaded : registry_.LoadedVersions()) {
      const auto version = VersionName::Parse(loaded);
      if (version.has_value() && WithoutCollection(version->model) == request->name()) {
        response->add_versions(absl::StrCat(version->version));
      }
    }
    FillTensors((*model)->classifier->manifest().tasks(), *response);
    return absl::OkStatus();
  });
}

grpc::Status InferenceService::ModelConfig(grpc::ServerContext*,
                                           const inference::ModelConfigRequest* request,
                                           inference::ModelConfigResponse* response) {
  return Answer([&] {
    const auto model = Acquire(request->name(), request->version());
    if (!model.ok()) return model.status();
    response->mutable_config()->set_name(request->name());
    FillTensors((*model)->classifier->manifest().tasks(), *response->mutable_config());
    return absl::OkStatus();
  });
}

grpc::Status InferenceService::ModelStatistics(grpc::ServerContext*,
                                               const inference::ModelStatisticsRequest* request,
                                               inference::ModelStatisticsResponse* response) {
  return Answer([&] {
    std::vector<std::string> names;
    if (request->name().empty()) {
      names = registry_.LoadedVersions();
    } else {
      const auto model = Acquire(request->name(), request->version());
      if (!model.ok()) return model.status();
      names.push_back((*model)->name);
      if (request->version().empty()) {
        const std::string of_model = VersionName::Parse(names[0])->model;
        names = registry_.LoadedVersions();
        std::erase_if(names, [&](const std::string& name) {
          return VersionName::Parse(name)->model != of_model;
        });
      }
    }
    for (const std::string& name : names) {
      const VersionName version = *VersionName::Parse(name);
      const auto model = Acquire(WithoutCollection(version.model), absl::StrCat(version.version));
      if (!model.ok()) continue;  // unloaded meanwhile
      inference::ModelStatistics& statistics = *response->add_model_stats();
      statistics.set_name(WithoutCollection(version.model));
      statistics.set_version(absl::StrCat(version.version));
      Set((*model)->metrics->Read(), statistics);
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<v1::ModelVersion>> InferenceService::VersionsOf(
    const std::string& model) {
  std::vector<v1::ModelVersion> versions;
  std::string token;
  do {
    auto page = registry_.ListVersions(model, kPage, token);
    if (!page.ok()) return page.status();
    std::move(page->rows.begin(), page->rows.end(), std::back_inserter(versions));
    token = page->next_page_token;
  } while (!token.empty());
  return versions;
}

grpc::Status InferenceService::RepositoryIndex(grpc::ServerContext*,
                                               const inference::RepositoryIndexRequest* request,
                                               inference::RepositoryIndexResponse* response) {
  return Answer([&]() -> absl::Status {
    if (!request->repository_name().empty()) {
      Faults faults;
      faults.Add("repository_name", absl::StrCat(Quote(request->repository_name()),
                                                 " is unknown; the one repository has no name"));
      return faults.ToStatus();
    }
    std::string token;
    do {
      const auto models = table_.ListModels(kPage, token);
      if (!models.ok()) return models.status();
      for (const v1::Model& model : models->rows) {
        const auto versions = VersionsOf(model.name());
        if (absl::IsNotFound(versions.status())) continue;  // deleted meanwhile
        if (!versions.ok()) return versions.status();
        for (const v1::ModelVersion& version : *versions) {
          if (request->ready() && version.state() != v1::ModelVersion::LOADED) continue;
          auto& row = *response->add_models();
          row.set_name(WithoutCollection(model.name()));
          row.set_version(absl::StrCat(VersionName::Parse(version.name())->version));
          row.set_state(StateName(version.state()));
          if (version.state() != v1::ModelVersion::LOADED) row.set_reason(ReasonOfState(version));
        }
      }
      token = models->next_page_token;
    } while (!token.empty());
    return absl::OkStatus();
  });
}

grpc::Status InferenceService::RepositoryModelLoad(
    grpc::ServerContext* context, const inference::RepositoryModelLoadRequest* request,
    inference::RepositoryModelLoadResponse* response) {
  return Answer([&]() -> absl::Status {
    const std::string& model = ModelIn(*request);
    const auto name = ModelResourceName(model, "", "model_");
    if (!name.ok()) return name.status();
    if (!request->parameters().empty()) {
      return absl::UnimplementedError(absl::StrCat(
          "parameters[", Quote(request->parameters().begin()->first),
          "]: a version is loaded as it was published; nothing of it can be replaced."));
    }
    const auto loaded = registry_.Load(*name, absl::FromChrono(context->deadline()));
    if (!loaded.ok()) return loaded.status();
    response->set_model_name(model);
    response->set_is_loaded(true);
    return absl::OkStatus();
  });
}

grpc::Status InferenceService::RepositoryModelUnload(
    grpc::ServerContext*, const inference::RepositoryModelUnloadRequest* request,
    inference::RepositoryModelUnloadResponse* response) {
  return Answer([&]() -> absl::Status {
    const std::string& model = ModelIn(*request);
    const auto name = ModelResourceName(model, "", "model_");
    if (!name.ok()) return name.status();
    const auto versions = VersionsOf(*name);
    if (!versions.ok()) return versions.status();
    for (const v1::ModelVersion& version : *versions) {
      if (version.state() == v1::ModelVersion::UNLOADED) continue;
      const auto unloaded = registry_.Unload(version.name());
      if (!unloaded.ok() && !absl::IsNotFound(unloaded.status())) return unloaded.status();
    }
    response->set_model_name(model);
    response->set_is_unloaded(true);
    return absl::OkStatus();
  });
}

grpc::Status InferenceService::NotOffered() {
  return ToGrpcStatus(
      absl::UnimplementedError("Shared memory, traces and log settings are not offered: tensors go "
                               "in requests and answers, metrics say where their time went, and "
                               "flags of tasukid choose its log."));
}

}  // namespace tasuki
