#include "server/rpc/models_service.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "model/errors/errors.h"
#include "model/files/model_directory.h"
#include "model/recipe/version_name.h"
#include "server/rpc/names.h"
#include "server/rpc/random_id.h"
#include "server/rpc/status.h"
#include "server/serving/model_transfer.h"

namespace tasuki {
namespace {

absl::Status HeaderFault(absl::string_view description) {
  Faults faults;
  faults.Add("header", description);
  return faults.ToStatus();
}

absl::Status NoAdapter(const std::string& version) {
  Faults faults;
  faults.Add("adapter", absl::StrCat(version,
                                     " has none: its weights were trained themselves, or it was "
                                     "imported, which leaves adapters behind"));
  return faults.ToStatus();
}

// The files of the adapter, by their names in its directory.
std::vector<v1::ModelFile> AdapterFiles(const v1::ModelVersion& version) {
  std::vector<v1::ModelFile> files;
  for (const v1::ModelFile& file : version.files()) {
    absl::string_view name = file.name();
    if (!absl::ConsumePrefix(&name, absl::StrCat(kAdapterDirectory, "/"))) continue;
    files.push_back(file);
    files.back().set_name(std::string(name));
  }
  return files;
}

// Name of an alias, and of a version of its model (or "", where that is allowed).
absl::Status CheckAliasAndVersion(const std::string& alias, const std::string& version,
                                  bool may_be_empty = false) {
  if (absl::Status status = CheckAliasName(alias); !status.ok()) return status;
  if (version.empty() && may_be_empty) return absl::OkStatus();
  if (absl::Status status = CheckVersionName(version, "model_version"); !status.ok()) return status;
  if (VersionName::Parse(version)->model == AliasName::Parse(alias)->model) return absl::OkStatus();
  Faults faults;
  faults.Add("model_version",
             absl::StrCat("\"", version, "\" is a version of another model than ", alias));
  return faults.ToStatus();
}

}  // namespace

ModelsService::ModelsService(ModelRegistry& registry, ModelTable& table, AliasTable& aliases,
                             const DataDirectory& data)
    : registry_(registry), table_(table), aliases_(aliases), data_(data) {}

absl::Status ModelsService::Import(grpc::ServerContext& context,
                                   grpc::ServerReader<v1::ImportModelVersionRequest>& reader,
                                   v1::ModelVersion* response) {
  v1::ImportModelVersionRequest message;
  if (!reader.Read(&message) || !message.has_header()) {
    return HeaderFault("is missing: it is the first message of an import");
  }
  const v1::ImportModelVersionHeader header = std::move(*message.mutable_header());
  auto upload = ModelUpload::Begin(header, data_);
  if (!upload.ok()) return upload.status();
  while (reader.Read(&message)) {
    if (message.has_header()) return HeaderFault("came twice");
    if (absl::Status status = (*upload)->Append(message.chunk()); !status.ok()) return status;
  }
  if (context.IsCancelled()) return absl::CancelledError("The client went away.");
  if (absl::Status status = (*upload)->Finish(); !status.ok()) return status;
  Publication publication;
  publication.model = header.model();
  publication.directory = (*upload)->directory();
  publication.key =
      absl::StrCat("imports/", header.request_id().empty() ? RandomId() : header.request_id());
  publication.digest = (*upload)->digest();
  publication.check = true;
  publication.cancelled = [&context] { return context.IsCancelled(); };
  return Assign(registry_.Publish(publication), response);
}

grpc::Status ModelsService::ImportModelVersion(
    grpc::ServerContext* context, grpc::ServerReader<v1::ImportModelVersionRequest>* reader,
    v1::ModelVersion* response) {
  return Answer([&] { return Import(*context, *reader, response); });
}

grpc::Status ModelsService::ExportModelVersion(
    grpc::ServerContext*, const v1::ExportModelVersionRequest* request,
    grpc::ServerWriter<v1::ExportModelVersionResponse>* writer) {
  return Answer([&]() -> absl::Status {
    if (absl::Status status = CheckVersionName(request->name()); !status.ok()) return status;
    const auto version = table_.GetVersion(request->name());
    if (!version.ok()) return version.status();
    std::string directory = data_.model_version(version->name());
    std::vector<v1::ModelFile> files(version->files().begin(), version->files().end());
    if (request->adapter()) {
      files = AdapterFiles(*version);
      absl::StrAppend(&directory, "/", kAdapterDirectory);
      if (files.empty()) return NoAdapter(version->name());
    }
    v1::ExportModelVersionResponse response;
    return ReadModelFiles(
        directory, files,
        [&](const v1::ModelFile& file) {
          *response.mutable_file() = file;
          return writer->Write(response);
        },
        [&](std::string bytes) {
          response.set_chunk(std::move(bytes));
          return writer->Write(response);
        });
  });
}

grpc::Status ModelsService::GetModel(grpc::ServerContext*, const v1::GetModelRequest* request,
                                     v1::Model* response) {
  return Answer([&] {
    if (absl::Status status = CheckModelName(request->name()); !status.ok()) return status;
    return Assign(table_.GetModel(request->name()), response);
  });
}

grpc::Status ModelsService::ListModels(grpc::ServerContext*, const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) {
  return Answer([&] {
    auto page = table_.ListModels(request->page_size(), request->page_token());
    if (!page.ok()) return page.status();
    response->mutable_models()->Assign(page->rows.begin(), page->rows.end());
    response->set_next_page_token(page->next_page_token);
    return absl::OkStatus();
  });
}

grpc::Status ModelsService::GetModelVersion(grpc::ServerContext*,
                                            const v1::GetModelVersionRequest* request,
                                            v1::ModelVersion* response) {
  return Answer([&] {
    if (absl::Status status = CheckModelOrVersionName(request->name()); !status.ok()) return status;
    return Assign(registry_.Get(request->name()), response);
  });
}

grpc::Status ModelsService::ListModelVersions(grpc::ServerContext*,
                                              const v1::ListModelVersionsRequest* request,
                                              v1::ListModelVersionsResponse* response) {
  return Answer([&] {
    if (absl::Status status = CheckModelName(request->parent(), "parent"); !status.ok()) {
      return status;
    }
    auto page =
        registry_.ListVersions(request->parent(), request->page_size(), request->page_token());
    if (!page.ok()) return page.status();
    response->mutable_model_versions()->Assign(page->rows.begin(), page->rows.end());
    response->set_next_page_token(page->next_page_token);
    return absl::OkStatus();
  });
}

grpc::Status ModelsService::LoadModelVersion(grpc::ServerContext* context,
                                             const v1::LoadModelVersionRequest* request,
                                             v1::ModelVersion* response) {
  return Answer([&] {
    if (absl::Status status = CheckModelOrVersionName(request->name()); !status.ok()) return status;
    return Assign(registry_.Load(request->name(), absl::FromChrono(context->deadline())), response);
  });
}

grpc::Status ModelsService::UnloadModelVersion(grpc::ServerContext*,
                                               const v1::UnloadModelVersionRequest* request,
                                               v1::ModelVersion* response) {
  return Answer([&] {
    if (absl::Status status = CheckVersionName(request->name()); !status.ok()) return status;
    return Assign(registry_.Unload(request->name()), response);
  });
}

grpc::Status ModelsService::DeleteModelVersion(grpc::ServerContext*,
                                               const v1::DeleteModelVersionRequest* request,
                                               google::protobuf::Empty*) {
  return Answer([&] {
    if (absl::Status status = CheckVersionName(request->name()); !status.ok()) return status;
    return registry_.Delete(request->name());
  });
}

grpc::Status ModelsService::SetModelAlias(grpc::ServerContext* context,
                                          const v1::SetModelAliasRequest* request,
                                          v1::ModelAlias* response) {
  return Answer([&] {
    absl::Status status = CheckAliasAndVersion(request->name(), request->model_version());
    if (!status.ok()) return status;
    v1::ModelAlias::Change change;
    change.set_model_version(request->model_version());
    change.set_cause(v1::ModelAlias::Change::SET);
    return Assign(
        registry_.SetAlias(request->name(), change, absl::FromChrono(context->deadline())),
        response);
  });
}

grpc::Status ModelsService::RollbackModelAlias(grpc::ServerContext* context,
                                               const v1::RollbackModelAliasRequest* request,
                                               v1::ModelAlias* response) {
  return Answer([&] {
    if (absl::Status status = CheckAliasName(request->name()); !status.ok()) return status;
    return Assign(registry_.RollbackAlias(request->name(), absl::FromChrono(context->deadline())),
                  response);
  });
}

grpc::Status ModelsService::ShadowModelAlias(grpc::ServerContext* context,
                                             const v1::ShadowModelAliasRequest* request,
                                             v1::ModelAlias* response) {
  return Answer([&] {
    absl::Status status = CheckAliasAndVersion(request->name(), request->model_version(),
                                               /*may_be_empty=*/true);
    if (!status.ok()) return status;
    return Assign(registry_.SetShadow(request->name(), request->model_version(),
                                      absl::FromChrono(context->deadline())),
                  response);
  });
}

grpc::Status ModelsService::GetModelAlias(grpc::ServerContext*,
                                          const v1::GetModelAliasRequest* request,
                                          v1::ModelAlias* response) {
  return Answer([&] {
    if (absl::Status status = CheckAliasName(request->name()); !status.ok()) return status;
    return Assign(aliases_.Get(request->name()), response);
  });
}

grpc::Status ModelsService::ListModelAliases(grpc::ServerContext*,
                                             const v1::ListModelAliasesRequest* request,
                                             v1::ListModelAliasesResponse* response) {
  return Answer([&] {
    if (absl::Status status = CheckModelName(request->parent(), "parent"); !status.ok()) {
      return status;
    }
    auto page = aliases_.List(request->parent(), request->page_size(), request->page_token());
    if (!page.ok()) return page.status();
    response->mutable_model_aliases()->Assign(page->rows.begin(), page->rows.end());
    response->set_next_page_token(page->next_page_token);
    return absl::OkStatus();
  });
}

grpc::Status ModelsService::DeleteModelAlias(grpc::ServerContext*,
                                             const v1::DeleteModelAliasRequest* request,
                                             google::protobuf::Empty*) {
  return Answer([&] {
    if (absl::Status status = CheckAliasName(request->name()); !status.ok()) return status;
    return registry_.DeleteAlias(request->name());
  });
}

}  // namespace tasuki
