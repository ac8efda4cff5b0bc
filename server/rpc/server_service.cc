#include "server/rpc/server_service.h"

#include <utility>

#include "server/rpc/status.h"

namespace tasuki {

ServerService::ServerService(v1::ServerInfo info, const ModelRegistry& registry)
    : info_(std::move(info)), registry_(registry) {}

grpc::Status ServerService::GetServerInfo(grpc::ServerContext*, const v1::GetServerInfoRequest*,
                                          v1::ServerInfo* response) {
  return Answer([&] {
    *response = info_;
    for (const std::string& name : registry_.LoadedVersions()) {
      response->add_loaded_model_versions(name);
    }
    response->set_model_memory_bytes(registry_.MemoryBytes());
    return absl::OkStatus();
  });
}

}  // namespace tasuki
