#include "server/rpc/server_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/errors/errors.h"
#include "server/log/log.h"
#include "server/rpc/status.h"

namespace tasuki {

ServerService::ServerService(v1::ServerInfo info, const ModelRegistry& registry)
    : info_(std::move(info)), registry_(registry) {}

void ServerService::FillIn(v1::ServerInfo& info) const {
  info = info_;
  for (const std::string& name : registry_.LoadedVersions()) {
    info.add_loaded_model_versions(name);
  }
  info.set_model_memory_bytes(registry_.MemoryBytes());
  info.set_log_level(LogLevelName());
}

grpc::Status ServerService::GetServerInfo(grpc::ServerContext*, const v1::GetServerInfoRequest*,
                                          v1::ServerInfo* response) {
  return Answer([&] {
    FillIn(*response);
    return absl::OkStatus();
  });
}

grpc::Status ServerService::SetLogLevel(grpc::ServerContext*, const v1::SetLogLevelRequest* request,
                                        v1::ServerInfo* response) {
  return Answer([&] {
    if (!tasuki::SetLogLevel(request->level())) {
      Faults faults;
      faults.Add("level", absl::StrCat(Quote(request->level()), " is none of ",
                                       absl::StrJoin(kLogLevels, ", ")));
      return faults.ToStatus();
    }
    FillIn(*response);
    return absl::OkStatus();
  });
}

}  // namespace tasuki
