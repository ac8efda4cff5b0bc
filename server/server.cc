#include "server/server.h"

#include <unistd.h>

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "google/protobuf/util/time_util.h"
#include "model/files/durable.h"
#include "model/t5/kernels.h"
#include "model/t5/libtorch_version.h"
#include "server/compute.h"
#include "server/data_lock.h"
#include "server/datasets/datasets.h"
#include "server/jobs/jobs.h"
#include "server/log/log.h"
#include "server/metrics/metrics.h"
#include "server/rpc/access.h"
#include "server/rpc/classification_path.h"
#include "server/rpc/classification_service.h"
#include "server/rpc/datasets_service.h"
#include "server/rpc/endpoint.h"
#include "server/rpc/inference_service.h"
#include "server/rpc/models_service.h"
#include "server/rpc/server_service.h"
#include "server/rpc/training_service.h"
#include "server/rpc/watch_hub.h"
#include "server/serving/model_registry.h"
#include "server/store/data_directory.h"
#include "server/store/store.h"
#include "spdlog/spdlog.h"

namespace tasuki {
namespace {

ServingOptions ServingOptionsOf(const Options& options, const Compute& compute) {
  ServingOptions serving;
  serving.threads = compute.serving_threads;
  serving.device = compute.device.name;
  serving.precision = PrecisionNamed(options.serving_precision).value();  // the flag was checked
  serving.max_batch_tokens = options.max_batch_tokens;
  serving.max_queue_tokens = options.max_queue_tokens;
  serving.max_batch_delay = absl::Milliseconds(options.max_batch_delay_ms);
  serving.trainer_path = options.trainer;
  serving.memory_limit_bytes = options.model_memory_mb * 1'000'000;
  serving.keep_versions = options.keep_versions;
  return serving;
}

JobsOptions JobsOptionsOf(const Options& options, const Compute& compute) {
  JobsOptions jobs;
  jobs.trainer_path = options.trainer;
  jobs.training_threads = compute.training_threads;
  jobs.kernels = compute.training_kernels;
  jobs.idle_priority = options.training_priority == "idle";
  jobs.device = compute.device.name;
  jobs.trains_in_bf16 =
      !compute.device.is_cpu() || CanDo(*KernelsNamed(compute.training_kernels), Precision::kBf16);
  jobs.stop_grace = absl::Seconds(options.drain_seconds);
  return jobs;
}

v1::ServerInfo InfoOf(const Options& options, const Compute& compute) {
  v1::ServerInfo info;
  info.set_version(TASUKI_VERSION);
  *info.mutable_start_time() = google::protobuf::util::TimeUtil::GetCurrentTime();
  info.set_device(compute.device.name);
  info.set_serving_threads(compute.serving_threads);
  info.set_training_threads(compute.training_threads);
  info.set_libtorch_version(LibtorchVersion());
  info.set_store(options.store);
  info.set_serving_precision(options.serving_precision);
  info.set_serving_kernels(compute.serving_kernels);
  info.set_training_kernels(compute.training_kernels);
  info.set_model_memory_limit_bytes(options.model_memory_mb * 1'000'000);
  return info;
}

// The one place where the slow path meets the fast one.
Jobs::Publish PublishInto(ModelRegistry& registry) {
  return [&registry](const v1::TrainingJob& job,
                     const std::string& result_directory) -> absl::StatusOr<std::string> {
    Publication publication;
    publication.model = job.model();
    publication.directory = result_directory;
    publication.key = job.name();
    // An alias loads what it is pointed to.
    publication.load = job.has_fine_tuning() && !job.has_deploy_on_success();
    const auto version = registry.Publish(publication);
    if (!version.ok()) return version.status();
    return version->name();
  };
}

Jobs::Deploy DeployBy(ModelRegistry& registry) {
  return [&registry](const std::string& alias, const std::string& version, const std::string& job) {
    v1::ModelAlias::Change change;
    change.set_model_version(version);
    change.set_cause(v1::ModelAlias::Change::JOB);
    change.set_training_job(job);
    return registry.SetAlias(alias, change).status();
  };
}

}  // namespace

// In the order in which they start; destroyed the other way round.
struct Server::Rooms {
  Rooms(const Options& options, const Compute& compute)
      : options(options), compute(compute), data(options.data_dir) {}

  absl::Status OpenData();
  absl::Status Serve();
  absl::Status WriteReadyFile() const;

  const Options options;
  const Compute compute;
  const DataDirectory data;
  std::optional<DataLock> lock;
  Metrics metrics;
  const LogCounter log_counter{metrics};
  std::string metrics_address;
  std::unique_ptr<Store> store;
  std::unique_ptr<Datasets> datasets;
  std::unique_ptr<ModelRegistry> registry;
  std::unique_ptr<Jobs> jobs;
  std::unique_ptr<WatchHub> watchers;
  std::unique_ptr<DatasetsService> datasets_service;
  std::unique_ptr<TrainingService> training_service;
  std::unique_ptr<ModelsService> models_service;
  std::unique_ptr<ClassificationPath> classification_path;
  std::unique_ptr<ClassificationService> classification_service;
  std::unique_ptr<InferenceService> inference_service;
  std::unique_ptr<ServerService> server_service;
  std::unique_ptr<Access> access;
  std::unique_ptr<Endpoint> endpoint;
  std::unique_ptr<Endpoint> health_endpoint;
  bool stopped = false;
};

absl::Status Server::Rooms::OpenData() {
  if (absl::Status status = MakeDirectories(data.root()); !status.ok()) {
    return absl::FailedPreconditionError(absl::StrCat("--data_dir: ", status.message()));
  }
  absl::StatusOr<DataLock> taken = DataLock::Take(data.lock());
  if (!taken.ok()) return taken.status();
  lock.emplace(*std::move(taken));
  unlink(options.ready_file.c_str());  // of an earlier server
  // What an earlier server was making when it ended.
  if (absl::Status status = RemoveAll(data.aside()); !status.ok()) return status;
  if (absl::Status status = MakeDirectories(data.aside()); !status.ok()) return status;

  metrics.SetBuildInfo(TASUKI_VERSION, LibtorchVersion());
  metrics.SetCompute("serving", options.serving_precision, compute.serving_kernels,
                     compute.serving_threads);
  metrics.SetCompute("training", "fp32", compute.training_kernels, compute.training_threads);
  metrics.WatchVolume("data", data.root());
  metrics.WatchFiles("datasets", data.datasets());
  metrics.WatchFiles("models", data.models());
  metrics.WatchFiles("jobs", data.jobs());
  for (const char* part : {"", "-wal", "-shm"}) {
    metrics.WatchFiles("store", data.database() + part);
  }
  absl::StatusOr<std::unique_ptr<Store>> opened = Store::Open(data.database(), metrics);
  if (!opened.ok()) return opened.status();
  store = *std::move(opened);
  return absl::OkStatus();
}

absl::Status Server::Rooms::Serve() {
  datasets = std::make_unique<Datasets>(*store, data);
  registry =
      std::make_unique<ModelRegistry>(*store, data, ServingOptionsOf(options, compute), metrics);
  jobs = std::make_unique<Jobs>(*store, data, JobsOptionsOf(options, compute), metrics,
                                PublishInto(*registry), DeployBy(*registry));
  watchers = std::make_unique<WatchHub>(store->jobs());
  jobs->SetListener([hub = watchers.get()](const std::string& job) { hub->Wake(job); });

  datasets_service = std::make_unique<DatasetsService>(*datasets, store->datasets());
  training_service = std::make_unique<TrainingService>(*jobs, store->jobs(), *watchers);
  models_service =
      std::make_unique<ModelsService>(*registry, store->models(), store->aliases(), data);
  classification_path = std::make_unique<ClassificationPath>(*registry);
  classification_service = std::make_unique<ClassificationService>(*classification_path);
  inference_service =
      std::make_unique<InferenceService>(*classification_path, *registry, store->models());
  server_service = std::make_unique<ServerService>(InfoOf(options, compute), *registry);

  Access::Options who;
  who.tokens_file = options.tokens_file;
  who.tls_certificate = options.tls_certificate;
  who.tls_key = options.tls_key;
  who.tls_client_ca = options.tls_client_ca;
  absl::StatusOr<std::unique_ptr<Access>> read = Access::Open(std::move(who), metrics);
  if (!read.ok()) return read.status();
  access = *std::move(read);

  // Addresses before anything runs: a server that cannot be reached must not start trainers.
  if (!options.metrics_listen.empty()) {
    absl::StatusOr<std::string> address = metrics.Listen(options.metrics_listen);
    if (!address.ok()) return absl::FailedPreconditionError(address.status().message());
    metrics_address = *std::move(address);
  }
  if (!options.health_listen.empty()) {
    absl::StatusOr<std::unique_ptr<Endpoint>> opened =
        Endpoint::Listen({options.health_listen, options.max_rpc_threads, {}}, metrics);
    if (!opened.ok()) return opened.status();
    health_endpoint = *std::move(opened);
  }
  if (absl::Status status = registry->Start(); !status.ok()) return status;
  Endpoint::Options main;
  main.address = options.listen;
  main.max_threads = options.max_rpc_threads;
  main.services = {datasets_service.get(),       training_service.get(),  models_service.get(),
                   classification_service.get(), inference_service.get(), server_service.get()};
  main.access = access.get();
  absl::StatusOr<std::unique_ptr<Endpoint>> opened = Endpoint::Listen(main, metrics);
  if (!opened.ok()) return opened.status();
  endpoint = *std::move(opened);
  if (absl::Status status = jobs->Start(); !status.ok()) return status;
  endpoint->SetServing(true);
  if (health_endpoint != nullptr) health_endpoint->SetServing(true);
  registry->SetServingListener([this](const std::string& name, bool serving) {
    for (Endpoint* each : {endpoint.get(), health_endpoint.get()}) {
      if (each != nullptr) each->SetModelServing(name, serving);
    }
  });
  return WriteReadyFile();
}

absl::Status Server::Rooms::WriteReadyFile() const {
  if (options.ready_file.empty()) return absl::OkStatus();
  return ReplaceFile(
      options.ready_file,
      absl::StrFormat("{\"listen\": \"%s\", \"metrics_listen\": \"%s\", \"health_listen\": \"%s\", "
                      "\"pid\": %d}\n",
                      endpoint->address(), metrics_address,
                      health_endpoint != nullptr ? health_endpoint->address() : "", getpid()));
}

Server::Server(std::unique_ptr<Rooms> rooms) : rooms_(std::move(rooms)) {}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const Options& options) {
  const absl::Time begin = absl::Now();
  const absl::StatusOr<Compute> picked = PickCompute(options);
  if (!picked.ok()) return picked.status();
  const Compute& compute = *picked;
  const absl::Duration measured = absl::Now() - begin;
  UseKernels(*KernelsNamed(compute.serving_kernels));
  std::unique_ptr<Server> server(new Server(std::make_unique<Rooms>(options, compute)));
  if (absl::Status status = server->rooms_->OpenData(); !status.ok()) return status;
  if (absl::Status status = server->rooms_->Serve(); !status.ok()) return status;
  spdlog::info(
      "tasukid {} serves {} (metrics {}, health {}), data in {}, on {}: serving in {} by kernels "
      "{} "
      "on {} threads, training by kernels {} on {} threads; measuring took {}",
      TASUKI_VERSION, server->listen(),
      server->metrics_listen().empty() ? "off" : server->metrics_listen(),
      server->health_listen().empty() ? "on the same port" : server->health_listen(),
      options.data_dir,
      compute.device.is_cpu() ? compute.device.name
                              : absl::StrCat(compute.device.name, " (", compute.device.model, ")"),
      options.serving_precision, compute.serving_kernels, compute.serving_threads,
      compute.training_kernels, compute.training_threads,
      absl::FormatDuration(absl::Trunc(measured, absl::Milliseconds(1))));
  if (!compute.device.no_gpu.empty()) spdlog::info("no GPU: {}", compute.device.no_gpu);
  if (options.allow_unauthenticated_public_access && !IsLoopback(server->listen())) {
    spdlog::warn("other machines can reach {}, {} TLS and {}", server->listen(),
                 options.tls_certificate.empty() ? "without" : "with",
                 options.tokens_file.empty() && options.tls_client_ca.empty()
                     ? "without tokens or certificates of clients: whoever does may do everything"
                     : "with authentication");
  }
  return server;
}

Server::~Server() { Stop(); }

void Server::Stop() {
  Rooms& rooms = *rooms_;
  if (std::exchange(rooms.stopped, true)) return;
  rooms.metrics.SetDraining(true);
  if (rooms.registry != nullptr) rooms.registry->SetServingListener(nullptr);
  if (rooms.health_endpoint != nullptr) rooms.health_endpoint->SetServing(false);
  if (rooms.endpoint != nullptr) {
    rooms.endpoint->SetServing(false);
    // Who looks at health goes elsewhere; who does not yet is answered as before.
    absl::SleepFor(absl::Seconds(rooms.options.drain_delay_seconds));
    rooms.watchers->Drain();
    rooms.classification_service->Drain();
    rooms.inference_service->Drain();
    rooms.registry->Drain();
    rooms.jobs->Drain();
    rooms.endpoint->Shutdown(absl::Now() + absl::Seconds(rooms.options.drain_seconds));
  }
  if (rooms.jobs != nullptr) rooms.jobs->Stop();
  if (rooms.registry != nullptr) rooms.registry->Stop();
  // Without the lock it is another server's.
  if (rooms.lock.has_value() && !rooms.options.ready_file.empty()) {
    unlink(rooms.options.ready_file.c_str());
  }
  // The rest goes the other way round, health last of what can be reached.
}

const std::string& Server::listen() const { return rooms_->endpoint->address(); }
const std::string& Server::metrics_listen() const { return rooms_->metrics_address; }
const std::string& Server::health_listen() const {
  static const std::string none;
  return rooms_->health_endpoint != nullptr ? rooms_->health_endpoint->address() : none;
}

}  // namespace tasuki
