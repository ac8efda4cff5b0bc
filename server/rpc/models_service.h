// tasuki.v1.ModelService.
#pragma once

#include "server/serving/model_registry.h"
#include "server/store/alias_table.h"
#include "server/store/data_directory.h"
#include "server/store/model_table.h"
#include "tasuki/v1/models.grpc.pb.h"

namespace tasuki {

// Synchronous. Thread-safe.
class ModelsService final : public v1::ModelService::Service {
 public:
  ModelsService(ModelRegistry& registry, ModelTable& table, AliasTable& aliases,
                const DataDirectory& data);

  grpc::Status ImportModelVersion(grpc::ServerContext* context,
                                  grpc::ServerReader<v1::ImportModelVersionRequest>* reader,
                                  v1::ModelVersion* response) override;
  grpc::Status ExportModelVersion(
      grpc::ServerContext* context, const v1::ExportModelVersionRequest* request,
      grpc::ServerWriter<v1::ExportModelVersionResponse>* writer) override;
  grpc::Status GetModel(grpc::ServerContext* context, const v1::GetModelRequest* request,
                        v1::Model* response) override;
  grpc::Status ListModels(grpc::ServerContext* context, const v1::ListModelsRequest* request,
                          v1::ListModelsResponse* response) override;
  grpc::Status GetModelVersion(grpc::ServerContext* context,
                               const v1::GetModelVersionRequest* request,
                               v1::ModelVersion* response) override;
  grpc::Status ListModelVersions(grpc::ServerContext* context,
                                 const v1::ListModelVersionsRequest* request,
                                 v1::ListModelVersionsResponse* response) override;
  grpc::Status LoadModelVersion(grpc::ServerContext* context,
                                const v1::LoadModelVersionRequest* request,
                                v1::ModelVersion* response) override;
  grpc::Status UnloadModelVersion(grpc::ServerContext* context,
                                  const v1::UnloadModelVersionRequest* request,
                                  v1::ModelVersion* response) override;
  grpc::Status DeleteModelVersion(grpc::ServerContext* context,
                                  const v1::DeleteModelVersionRequest* request,
                                  google::protobuf::Empty* response) override;
  grpc::Status SetModelAlias(grpc::ServerContext* context, const v1::SetModelAliasRequest* request,
                             v1::ModelAlias* response) override;
  grpc::Status RollbackModelAlias(grpc::ServerContext* context,
                                  const v1::RollbackModelAliasRequest* request,
                                  v1::ModelAlias* response) override;
  grpc::Status ShadowModelAlias(grpc::ServerContext* context,
                                const v1::ShadowModelAliasRequest* request,
                                v1::ModelAlias* response) override;
  grpc::Status GetModelAlias(grpc::ServerContext* context, const v1::GetModelAliasRequest* request,
                             v1::ModelAlias* response) override;
  grpc::Status ListModelAliases(grpc::ServerContext* context,
                                const v1::ListModelAliasesRequest* request,
                                v1::ListModelAliasesResponse* response) override;
  grpc::Status DeleteModelAlias(grpc::ServerContext* context,
                                const v1::DeleteModelAliasRequest* request,
                                google::protobuf::Empty* response) override;

 private:
  absl::Status Import(grpc::ServerContext& context,
                      grpc::ServerReader<v1::ImportModelVersionRequest>& reader,
                      v1::ModelVersion* response);

  ModelRegistry& registry_;
  ModelTable& table_;
  AliasTable& aliases_;
  const DataDirectory& data_;
};

}  // namespace tasuki
