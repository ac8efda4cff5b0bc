// The connection behind a Client: channel, stubs, and the one loop that makes attempts.
// Private to client/. Thread-safe.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/client.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "tasuki/v1/classification.grpc.pb.h"
#include "tasuki/v1/datasets.grpc.pb.h"
#include "tasuki/v1/models.grpc.pb.h"
#include "tasuki/v1/server.grpc.pb.h"
#include "tasuki/v1/training.grpc.pb.h"

namespace tasuki {
namespace client {

// The status with the details of error_details() as payloads under their type URLs.
absl::Status FromGrpcStatus(const grpc::Status& status);

// A piece of a file in a message. The protos allow 1 MiB; less shows progress sooner.
inline constexpr size_t kChunkBytes = 256 * 1024;

}  // namespace client

struct Client::Connection {
  using Attempt = absl::FunctionRef<grpc::Status(grpc::ClientContext&)>;

  Connection(const std::string& address, ClientOptions options,
             const std::shared_ptr<grpc::ChannelCredentials>& credentials);

  // Makes attempts of `attempt` until one ends with something else than an error worth retrying.
  // `repeatable` false: makes one.
  absl::Status Call(absl::Duration timeout, Attempt attempt, bool repeatable = true) const;

  // A call whose second attempt finds the work of the first done ends OK, not NOT_FOUND.
  absl::Status Delete(Attempt attempt) const;

  // One attempt: `attempt` with a context that has `deadline` and the token and heeds `stop`. An
  // error without the server's details that says the server was not reached gets the address, or is
  // FAILED_PRECONDITION if TLS is why. What gRPC cancelled is UNAVAILABLE; CANCELLED means `stop`.
  absl::Status Try(absl::Time deadline, Attempt attempt) const;

  // Waits `mean` give or take a half, at most until `deadline`; not so long if the server was away
  // and is connected with again. False if stop was requested.
  bool Wait(absl::Duration mean, absl::Time deadline) const;

  // Constant after construction; stubs are thread-safe.
  const std::string address;
  const ClientOptions options;
  const std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::ClassificationService::Stub> classification;
  std::unique_ptr<v1::DatasetService::Stub> datasets;
  std::unique_ptr<grpc::health::v1::Health::Stub> health;
  std::unique_ptr<v1::ModelService::Stub> models;
  std::unique_ptr<v1::ServerService::Stub> server;
  std::unique_ptr<v1::TrainingService::Stub> training;
};

}  // namespace tasuki
