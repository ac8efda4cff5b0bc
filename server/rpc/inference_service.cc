#include "server/rpc/inference_service.h"

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/recipe/version_name.h"
#include "server/rpc/access.h"
#include "server/rpc/classification.h"
#include "server/rpc/inference.h"
#include "server/rpc/status.h"
#include "server/rpc/wire.h"

namespace tasuki {
namespace {

constexpr int kPage = 1000;
constexpr char kReady[] = "READY";

std::string WithoutCollection(const std::string& model) {
  return model.substr(model.find('/') + 1);  // `models/{model}`
}

const char* StateName(v1::ModelVersion::State state) {
  switch (state) {
    case v1::ModelVersion::LOADED:
    case v1::ModelVersion::STANDBY:  // a request brings it into memory
      return kReady;
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
  const inference::ModelInferRequest& request;
  inference::ModelInferResponse& response;
  const absl::Time arrival;
  ClassificationPath::Call call;  // without its `done`
  const std::function<void(const absl::Status&)> done;
  InferenceOrder order;
  // Until it is answered, so that the plan's tasks stay.
  std::shared_ptr<const LoadedModel> model;
  InferencePlan plan;
  v1::ClassifyResponse answer;
};

namespace {

// A call of ModelInfer, with its messages.
class InferReactor : public grpc::ServerUnaryReactor {
 public:
  void Run(InferenceService& service, const grpc::CallbackServerContext& context,
           const grpc::ByteBuffer& request, grpc::ByteBuffer& response) {
    if (absl::Status status = Parse(request, request_); !status.ok()) {
      Finish(ToGrpcStatus(status));
      return;
    }
    ClassificationPath::Call call;
    call.deadline = absl::FromChrono(context.deadline());
    call.caller = CallerOf(context);
    call.cancelled = cancelled_;
    call.done = [this, &response](const absl::Status& status) {
      if (status.ok()) response = Serialize(response_);
      Finish(ToGrpcStatus(status));  // the last use of this: it may be gone
    };
    service.Infer(request_, response_, absl::Now(), std::move(call));
  }
  void OnCancel() override { cancelled_->store(true); }
  void OnDone() override { delete this; }

 private:
  const std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
  inference::ModelInferRequest request_;
  inference::ModelInferResponse response_;
};

// A request of ModelStreamInfer.
class InferExchange : public OrderedStreams::Exchange {
 public:
  explicit InferExchange(InferenceService& service) : service_(service) {}
  absl::Status Read(const grpc::ByteBuffer& bytes) override { return Parse(bytes, request_); }
  size_t request_bytes() const override { return request_.ByteSizeLong(); }
  int texts() const override {
    if (request_.inputs().empty() || request_.inputs(0).shape().empty()) return 0;
    return static_cast<int>(std::clamp<int64_t>(request_.inputs(0).shape(0), 0, kMaxTexts));
  }
  void Ask(ClassificationPath::Call call) override {
    answer_.Clear();
    service_.Infer(request_, *answer_.mutable_infer_response(), arrival_, std::move(call));
  }
  grpc::ByteBuffer Answer(const absl::Status& status) override {
    if (!status.ok()) {
      answer_.Clear();
      answer_.set_error_message(ToGrpcStatus(status).error_message());
    }
    auto& response = *answer_.mutable_infer_response();
    response.set_id(request_.id());
    // Clients that await several answers to a request wait for it.
    (*response.mutable_parameters())["triton_final_response"].set_bool_param(true);
    const grpc::ByteBuffer bytes = Serialize(answer_);
    // Clear would keep the memory.
    inference::ModelInferRequest().Swap(&request_);
    inference::ModelStreamInferResponse().Swap(&answer_);
    return bytes;
  }

 private:
  InferenceService& service_;
  const absl::Time arrival_ = absl::Now();
  inference::ModelInferRequest request_;
  inference::ModelStreamInferResponse answer_;
};

}  // namespace

InferenceService::InferenceService(ClassificationPath& path, ModelRegistry& registry,
                                   ModelTable& table)
    : path_(path),
      registry_(registry),
      table_(table),
      streams_([this] { return std::make_unique<InferExchange>(*this); }) {}

void InferenceService::Drain() {
  draining_ = true;
  streams_.Drain();
}

void InferenceService::Infer(const inference::ModelInferRequest& request,
                             inference::ModelInferResponse& response, absl::Time arrival,
                             ClassificationPath::Call call) {
  auto done = std::exchange(call.done, nullptr);
  const std::shared_ptr<Inference> inference(
      new Inference{request, response, arrival, std::move(call), std::move(done)});
  const absl::Status status =
      Catching([&] { return Assign(ReadInferRequest(request), &inference->order); });
  if (!status.ok()) return inference->done(status);
  const std::string model = inference->order.request.model();
  registry_.Acquire(model, [this, inference](absl::StatusOr<AcquiredModel> acquired) {
    Classify(inference, std::move(acquired));
  });
}

void InferenceService::Classify(const std::shared_ptr<Inference>& inference,
                                absl::StatusOr<AcquiredModel> acquired) {
  v1::ClassifyRequest& request = inference->order.request;
  const absl::Status status = Catching([&]() -> absl::Status {
    if (!acquired.ok()) return acquired.status();
    inference->model = acquired->model;
    const auto& tasks = inference->model->classifier->manifest().tasks();
    absl::Status fault = Assign(PlanInference(inference->request, tasks), &inference->plan);
    if (!fault.ok()) return fault;
    for (const v1::Task* task : inference->plan.tasks) request.add_tasks(task->name());
    return absl::OkStatus();
  });
  if (!status.ok()) {
    acquired = status;
    inference->model.reset();
    return inference->done(status);
  }
  ClassificationPath::Call call = std::move(inference->call);
  call.request = &request;
  call.response = &inference->answer;
  call.deadline = std::min(call.deadline, inference->arrival + inference->order.timeout);
  call.done = [inference](const absl::Status& classified) {
    const absl::Status end = Catching([&] {
      if (classified.ok()) {
        FillInferResponse(inference->request, inference->plan, inference->answer,
                          inference->response);
      }
      return classified;
    });
    inference->model.reset();
    inference->done(end);
  };
  path_.Run(std::move(call), *std::move(acquired));
}

grpc::ServerUnaryReactor* InferenceService::ModelInfer(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request,
                                                       grpc::ByteBuffer* response) {
  auto* reactor = new InferReactor;
  reactor->Run(*this, *context, *request, *response);
  return reactor;
}

grpc::Status InferenceService::ServerLive(grpc::ServerContext*, const inference::ServerLiveRequest*,
                                          inference::ServerLiveResponse* response) {
  response->set_live(true);
  return grpc::Status::OK;
}

grpc::Status InferenceService::ServerReady(grpc::ServerContext*,
                                           const inference::ServerReadyRequest*,
                                           inference::ServerReadyResponse* response) {
  response->set_ready(!draining_);
  return grpc::Status::OK;
}

absl::StatusOr<VersionStates::InServiceVersion> InferenceService::Look(const std::string& name,
                                                                       const std::string& version) {
  const absl::StatusOr<std::string> resource = ModelResourceName(name, version);
  if (!resource.ok()) return resource.status();
  return registry_.Look(*resource);
}

absl::StatusOr<v1::ModelVersion> InferenceService::Describe(const std::string& name,
                                                            const std::string& version) {
  const auto looked = Look(name, version);
  if (!looked.ok()) return looked.status();
  return registry_.Get(looked->name.ToString());
}

grpc::Status InferenceService::ModelReady(grpc::ServerContext*,
                                          const inference::ModelReadyRequest* request,
                                          inference::ModelReadyResponse* response) {
  return Answer([&] {
    response->set_ready(Look(request->name(), request->version()).ok());
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
    const auto described = Describe(request->name(), request->version());
    if (!described.ok()) return described.status();
    response->set_name(request->name());
    for (const std::string& loaded : registry_.LoadedVersions()) {
      const auto version = VersionName::Parse(loaded);
      if (version.has_value() && WithoutCollection(version->model) == request->name()) {
        response->add_versions(absl::StrCat(version->version));
      }
    }
    FillTensors(described->tasks(), *response);
    return absl::OkStatus();
  });
}

grpc::Status InferenceService::ModelConfig(grpc::ServerContext*,
                                           const inference::ModelConfigRequest* request,
                                           inference::ModelConfigResponse* response) {
  return Answer([&] {
    const auto described = Describe(request->name(), request->version());
    if (!described.ok()) return described.status();
    response->mutable_config()->set_name(request->name());
    FillTensors(described->tasks(), *response->mutable_config());
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
      const auto looked = Look(request->name(), request->version());
      if (!looked.ok()) return looked.status();
      names.push_back(looked->name.ToString());
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
      const auto looked = registry_.Look(name);
      if (!looked.ok() || looked->model == nullptr) continue;  // not in memory, and so without any
      inference::ModelStatistics& statistics = *response->add_model_stats();
      statistics.set_name(WithoutCollection(version.model));
      statistics.set_version(absl::StrCat(version.version));
      Set(looked->model->metrics->Read(), statistics);
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
          const std::string state = StateName(version.state());
          if (request->ready() && state != kReady) continue;
          auto& row = *response->add_models();
          row.set_name(WithoutCollection(model.name()));
          row.set_version(absl::StrCat(VersionName::Parse(version.name())->version));
          row.set_state(state);
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
    // All or none, unless an alias comes between.
    for (const v1::ModelVersion& version : *versions) {
      const absl::Status unnamed = registry_.CheckUnnamed(version.name());
      if (!unnamed.ok()) return unnamed;
    }
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
