#include "client/client.h"

#include <arpa/inet.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <random>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/connection.h"

namespace tasuki {
namespace {

// A method with one request and one answer, called as `stub->method(context, request, &answer)`.
template <typename Stub, typename Request, typename Answer>
using Method = grpc::Status (Stub::*)(grpc::ClientContext*, const Request&, Answer*);

// Calls a method until it answers or the call has failed.
template <typename Connection, typename Stub, typename Base, typename Request, typename Answer>
absl::StatusOr<Answer> Ask(const Connection& connection, absl::Duration timeout,
                           const std::unique_ptr<Stub>& stub, Method<Base, Request, Answer> method,
                           const Request& request, bool repeatable = true) {
  Answer answer;
  const auto attempt = [&](grpc::ClientContext& context) {
    answer.Clear();
    return (stub.get()->*method)(&context, request, &answer);
  };
  const absl::Status status = connection.Call(timeout, attempt, repeatable);
  if (!status.ok()) return status;
  return answer;
}

template <typename Request>
Request Named(const std::string& name) {
  Request request;
  request.set_name(name);
  return request;
}

// Follows the pages of a list. `ask` answers the page that a request asks for; `rows` finds its
// rows.
template <typename Row, typename Request, typename AskPage, typename Rows>
absl::StatusOr<std::vector<Row>> AllPages(Request request, size_t limit, AskPage ask, Rows rows) {
  std::vector<Row> all;
  do {
    request.set_page_size(static_cast<int>(std::min<size_t>(limit - all.size(), 1000)));
    auto page = ask(request);
    if (!page.ok()) return page.status();
    for (Row& row : *rows(*page)) {
      if (all.size() < limit) all.push_back(std::move(row));
    }
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty() && all.size() < limit);
  return all;
}

absl::Status CheckAddress(const std::string& address) {
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 1 || port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", address, "\" is not an address of the form HOST:PORT, such as 127.0.0.1:8500"));
  }
  return absl::OkStatus();
}

bool IsThisMachine(const std::string& address) {
  const std::string host = address.substr(0, address.rfind(':'));
  in_addr v4{};
  return host == "localhost" || host == "[::1]" ||
         (inet_pton(AF_INET, host.c_str(), &v4) == 1 && ntohl(v4.s_addr) >> 24 == 127);
}

// A header must not have another line in it, nor be cut.
absl::Status CheckToken(const std::string& token) {
  for (const char c : token) {
    if (c <= ' ' || c > '~') {
      return absl::InvalidArgumentError("the token holds a space or a character beyond ASCII");
    }
  }
  return absl::OkStatus();
}

absl::Status ReadPem(const std::string& path, const char* what, std::string& text) {
  std::ifstream file(path, std::ios::binary);
  text.assign(std::istreambuf_iterator<char>(file), {});
  if (!file || text.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("the ", what, " ", path, " cannot be read"));
  }
  if (!absl::StrContains(text, "-----BEGIN ")) {
    return absl::InvalidArgumentError(absl::StrCat("the ", what, " ", path, " is not PEM"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> CredentialsOf(
    const ClientOptions& options) {
  if (options.tls_certificate.empty() != options.tls_key.empty()) {
    return absl::InvalidArgumentError(
        "a certificate of the client and its key go together; give both or neither");
  }
  if (options.tls_ca.empty()) {
    if (options.tls_certificate.empty()) return grpc::InsecureChannelCredentials();
    return absl::InvalidArgumentError(
        "a certificate of the client needs TLS; give the server's CA");
  }
  grpc::SslCredentialsOptions tls;
  absl::Status status = ReadPem(options.tls_ca, "file of the CA", tls.pem_root_certs);
  if (status.ok() && !options.tls_certificate.empty()) {
    status.Update(ReadPem(options.tls_certificate, "certificate", tls.pem_cert_chain));
    status.Update(ReadPem(options.tls_key, "key", tls.pem_private_key));
  }
  if (!status.ok()) return status;
  return grpc::SslCredentials(tls);
}

}  // namespace

absl::StatusOr<Client> Client::Connect(const std::string& address, ClientOptions options) {
  if (absl::Status status = CheckAddress(address); !status.ok()) return status;
  if (absl::Status status = CheckToken(options.token); !status.ok()) return status;
  if (!options.token.empty() && options.tls_ca.empty() && !IsThisMachine(address)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a token is not sent in the clear to another machine, which ", address,
                     " may be; use TLS, by giving the CA of the server's certificate"));
  }
  const auto credentials = CredentialsOf(options);
  if (!credentials.ok()) return credentials.status();
  return Client(std::make_unique<Connection>(address, std::move(options), *credentials));
}

Client::Client(std::unique_ptr<Connection> connection) : connection_(std::move(connection)) {}
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;
Client::~Client() = default;

absl::StatusOr<v1::ClassifyResponse> Client::Classify(const v1::ClassifyRequest& request) {
  return Ask(*connection_, connection_->options.classify_timeout, connection_->classification,
             &v1::ClassificationService::Stub::Classify, request);
}

absl::StatusOr<v1::Dataset> Client::GetDataset(const std::string& name) {
  return Ask(*connection_, connection_->options.timeout, connection_->datasets,
             &v1::DatasetService::Stub::GetDataset, Named<v1::GetDatasetRequest>(name));
}

absl::StatusOr<std::vector<v1::Dataset>> Client::ListDatasets(size_t limit) {
  v1::ListDatasetsRequest request;
  return AllPages<v1::Dataset>(
      request, limit,
      [&](const v1::ListDatasetsRequest& page) {
        return Ask(*connection_, connection_->options.timeout, connection_->datasets,
                   &v1::DatasetService::Stub::ListDatasets, page);
      },
      [](auto& page) { return page.mutable_datasets(); });
}

absl::StatusOr<v1::InspectDatasetResponse> Client::InspectDataset(
    const v1::InspectDatasetRequest& request) {
  const ClientOptions& options = connection_->options;
  return Ask(*connection_, request.report() ? options.report_timeout : options.timeout,
             connection_->datasets, &v1::DatasetService::Stub::InspectDataset, request);
}

absl::Status Client::DeleteDataset(const std::string& name) {
  const auto request = Named<v1::DeleteDatasetRequest>(name);
  google::protobuf::Empty answer;
  return connection_->Delete([&](grpc::ClientContext& context) {
    return connection_->datasets->DeleteDataset(&context, request, &answer);
  });
}

absl::StatusOr<v1::TrainingJob> Client::CreateTrainingJob(v1::CreateTrainingJobRequest request) {
  if (request.request_id().empty()) request.set_request_id(NewRequestId());
  return Ask(*connection_, connection_->options.timeout, connection_->training,
             &v1::TrainingService::Stub::CreateTrainingJob, request);
}

absl::StatusOr<v1::EstimateTrainingJobResponse> Client::EstimateTrainingJob(
    const v1::EstimateTrainingJobRequest& request) {
  return Ask(*connection_, connection_->options.report_timeout, connection_->training,
             &v1::TrainingService::Stub::EstimateTrainingJob, request);
}

absl::StatusOr<v1::TrainingJob> Client::GetTrainingJob(const std::string& name) {
  return Ask(*connection_, connection_->options.timeout, connection_->training,
             &v1::TrainingService::Stub::GetTrainingJob, Named<v1::GetTrainingJobRequest>(name));
}

absl::StatusOr<std::vector<v1::TrainingJob>> Client::ListTrainingJobs(
    const std::vector<v1::TrainingJob::State>& states, size_t limit) {
  v1::ListTrainingJobsRequest request;
  for (const auto state : states) request.add_states(state);
  return AllPages<v1::TrainingJob>(
      request, limit,
      [&](const v1::ListTrainingJobsRequest& page) {
        return Ask(*connection_, connection_->options.timeout, connection_->training,
                   &v1::TrainingService::Stub::ListTrainingJobs, page);
      },
      [](auto& page) { return page.mutable_training_jobs(); });
}

absl::StatusOr<v1::TrainingJob> Client::CancelTrainingJob(const std::string& name) {
  return Ask(*connection_, connection_->options.timeout, connection_->training,
             &v1::TrainingService::Stub::CancelTrainingJob,
             Named<v1::CancelTrainingJobRequest>(name));
}

absl::StatusOr<v1::TrainingJob> Client::PauseTrainingJob(const std::string& name) {
  return Ask(*connection_, connection_->options.timeout, connection_->training,
             &v1::TrainingService::Stub::PauseTrainingJob,
             Named<v1::PauseTrainingJobRequest>(name));
}

absl::StatusOr<v1::TrainingJob> Client::ResumeTrainingJob(const std::string& name) {
  return Ask(*connection_, connection_->options.timeout, connection_->training,
             &v1::TrainingService::Stub::ResumeTrainingJob,
             Named<v1::ResumeTrainingJobRequest>(name));
}

absl::StatusOr<v1::TrainingJob> Client::FinishTrainingJob(const std::string& name) {
  return Ask(*connection_, connection_->options.timeout, connection_->training,
             &v1::TrainingService::Stub::FinishTrainingJob,
             Named<v1::FinishTrainingJobRequest>(name));
}

absl::StatusOr<v1::TrainingJob> Client::RetryTrainingJob(const std::string& name) {
  return Ask(*connection_, connection_->options.timeout, connection_->training,
             &v1::TrainingService::Stub::RetryTrainingJob,
             Named<v1::RetryTrainingJobRequest>(name));
}

absl::StatusOr<std::vector<std::string>> Client::GetTrainingJobLog(const std::string& name,
                                                                   int line_count) {
  auto request = Named<v1::GetTrainingJobLogRequest>(name);
  request.set_line_count(line_count);
  const auto log = Ask(*connection_, connection_->options.timeout, connection_->training,
                       &v1::TrainingService::Stub::GetTrainingJobLog, request);
  if (!log.ok()) return log.status();
  return std::vector<std::string>(log->lines().begin(), log->lines().end());
}

absl::Status Client::DeleteTrainingJob(const std::string& name) {
  const auto request = Named<v1::DeleteTrainingJobRequest>(name);
  google::protobuf::Empty answer;
  return connection_->Delete([&](grpc::ClientContext& context) {
    return connection_->training->DeleteTrainingJob(&context, request, &answer);
  });
}

absl::StatusOr<v1::Model> Client::GetModel(const std::string& name) {
  return Ask(*connection_, connection_->options.timeout, connection_->models,
             &v1::ModelService::Stub::GetModel, Named<v1::GetModelRequest>(name));
}

absl::StatusOr<std::vector<v1::Model>> Client::ListModels(size_t limit) {
  v1::ListModelsRequest request;
  return AllPages<v1::Model>(
      request, limit,
      [&](const v1::ListModelsRequest& page) {
        return Ask(*connection_, connection_->options.timeout, connection_->models,
                   &v1::ModelService::Stub::ListModels, page);
      },
      [](auto& page) { return page.mutable_models(); });
}

absl::StatusOr<v1::ModelVersion> Client::GetModelVersion(const std::string& name) {
  if (absl::StrContains(name, "/aliases/")) {
    const auto alias = GetModelAlias(name);
    if (!alias.ok()) return alias.status();
    return GetModelVersion(alias->model_version());
  }
  return Ask(*connection_, connection_->options.timeout, connection_->models,
             &v1::ModelService::Stub::GetModelVersion, Named<v1::GetModelVersionRequest>(name));
}

absl::StatusOr<std::vector<v1::ModelVersion>> Client::ListModelVersions(const std::string& model,
                                                                        size_t limit) {
  v1::ListModelVersionsRequest request;
  request.set_parent(model);
  return AllPages<v1::ModelVersion>(
      request, limit,
      [&](const v1::ListModelVersionsRequest& page) {
        return Ask(*connection_, connection_->options.timeout, connection_->models,
                   &v1::ModelService::Stub::ListModelVersions, page);
      },
      [](auto& page) { return page.mutable_model_versions(); });
}

absl::StatusOr<v1::ModelVersion> Client::LoadModelVersion(const std::string& name) {
  return Ask(*connection_, connection_->options.load_timeout, connection_->models,
             &v1::ModelService::Stub::LoadModelVersion, Named<v1::LoadModelVersionRequest>(name));
}

absl::StatusOr<v1::ModelVersion> Client::UnloadModelVersion(const std::string& name) {
  return Ask(*connection_, connection_->options.timeout, connection_->models,
             &v1::ModelService::Stub::UnloadModelVersion,
             Named<v1::UnloadModelVersionRequest>(name));
}

absl::Status Client::DeleteModelVersion(const std::string& name) {
  const auto request = Named<v1::DeleteModelVersionRequest>(name);
  google::protobuf::Empty answer;
  return connection_->Delete([&](grpc::ClientContext& context) {
    return connection_->models->DeleteModelVersion(&context, request, &answer);
  });
}

absl::StatusOr<v1::ModelAlias> Client::SetModelAlias(const std::string& name,
                                                     const std::string& model_version) {
  auto request = Named<v1::SetModelAliasRequest>(name);
  request.set_model_version(model_version);
  return Ask(*connection_, connection_->options.load_timeout, connection_->models,
             &v1::ModelService::Stub::SetModelAlias, request);
}

absl::StatusOr<v1::ModelAlias> Client::RollbackModelAlias(const std::string& name) {
  // Done twice, it would be back where it was.
  return Ask(*connection_, connection_->options.load_timeout, connection_->models,
             &v1::ModelService::Stub::RollbackModelAlias,
             Named<v1::RollbackModelAliasRequest>(name), /*repeatable=*/false);
}

absl::StatusOr<v1::ModelAlias> Client::ShadowModelAlias(const std::string& name,
                                                        const std::string& model_version) {
  auto request = Named<v1::ShadowModelAliasRequest>(name);
  request.set_model_version(model_version);
  return Ask(*connection_, connection_->options.load_timeout, connection_->models,
             &v1::ModelService::Stub::ShadowModelAlias, request);
}

absl::StatusOr<v1::ModelAlias> Client::GetModelAlias(const std::string& name) {
  return Ask(*connection_, connection_->options.timeout, connection_->models,
             &v1::ModelService::Stub::GetModelAlias, Named<v1::GetModelAliasRequest>(name));
}

absl::StatusOr<std::vector<v1::ModelAlias>> Client::ListModelAliases(const std::string& model,
                                                                     size_t limit) {
  v1::ListModelAliasesRequest request;
  request.set_parent(model);
  return AllPages<v1::ModelAlias>(
      request, limit,
      [&](const v1::ListModelAliasesRequest& page) {
        return Ask(*connection_, connection_->options.timeout, connection_->models,
                   &v1::ModelService::Stub::ListModelAliases, page);
      },
      [](auto& page) { return page.mutable_model_aliases(); });
}

absl::Status Client::DeleteModelAlias(const std::string& name) {
  const auto request = Named<v1::DeleteModelAliasRequest>(name);
  google::protobuf::Empty answer;
  return connection_->Delete([&](grpc::ClientContext& context) {
    return connection_->models->DeleteModelAlias(&context, request, &answer);
  });
}

absl::StatusOr<v1::ServerInfo> Client::GetServerInfo() {
  return Ask(*connection_, connection_->options.timeout, connection_->server,
             &v1::ServerService::Stub::GetServerInfo, v1::GetServerInfoRequest());
}

absl::StatusOr<v1::ServerInfo> Client::SetLogLevel(const std::string& level) {
  v1::SetLogLevelRequest request;
  request.set_level(level);
  return Ask(*connection_, connection_->options.timeout, connection_->server,
             &v1::ServerService::Stub::SetLogLevel, request);
}

absl::Status Client::CheckHealth() {
  const auto answer =
      Ask(*connection_, connection_->options.timeout, connection_->health,
          &grpc::health::v1::Health::Stub::Check, grpc::health::v1::HealthCheckRequest(),
          /*repeatable=*/false);
  if (!answer.ok()) return answer.status();
  if (answer->status() == grpc::health::v1::HealthCheckResponse::SERVING) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("the server at ", connection_->address, " does not serve: it starts or stops"));
}

std::string NewRequestId() {
  std::random_device random;  // the system's own source, not a generator
  const auto draw = [&] { return static_cast<uint64_t>(random()) << 32 | random(); };
  const uint64_t high = draw();
  const uint64_t low = draw();
  // RFC 4122: version 4 (random), variant 10.
  return absl::StrFormat("%08x-%04x-4%03x-%04x-%012x", high >> 32, (high >> 16) & 0xffff,
                         high & 0xfff, 0x8000 | ((low >> 48) & 0x3fff), low & 0xffffffffffff);
}

}  // namespace tasuki
