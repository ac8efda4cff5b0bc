// tasuki.v1.ServerService.
#pragma once

#include "server/serving/model_registry.h"
#include "tasuki/v1/server.grpc.pb.h"

namespace tasuki {

// Answers what it was given, with the versions that are loaded now. Thread-safe.
class ServerService final : public v1::ServerService::Service {
 public:
  ServerService(v1::ServerInfo info, const ModelRegistry& registry);
  grpc::Status GetServerInfo(grpc::ServerContext* context, const v1::GetServerInfoRequest* request,
                             v1::ServerInfo* response) override;
  grpc::Status SetLogLevel(grpc::ServerContext* context, const v1::SetLogLevelRequest* request,
                           v1::ServerInfo* response) override;

 private:
  void FillIn(v1::ServerInfo& info) const;

  const v1::ServerInfo info_;
  const ModelRegistry& registry_;
};

}  // namespace tasuki
