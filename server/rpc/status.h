// From the errors of the rooms to those of the wire: the one error table of the server.
#pragma once

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/support/status.h"

namespace tasuki {

// The same code and message, and a google.rpc.Status with every detail in grpc-status-details-bin.
//   - An error without an ErrorInfo gets one with the usual reason of its code; CANCELLED, which is
//     for a caller who left, has none.
//   - INTERNAL and UNKNOWN are bugs: the cause goes to the log, the caller gets an id of that line.
//   - UNAVAILABLE and RESOURCE_EXHAUSTED, but OUT_OF_MEMORY, get a RetryInfo if they have none.
//   - Message and details are cut to what a client takes by default (8 KiB of trailers).
// Thread-safe.
grpc::Status ToGrpcStatus(const absl::Status& status);

// Runs a handler; what it throws is INTERNAL, and never reaches gRPC.
absl::Status Catching(absl::FunctionRef<absl::Status()> handler);

// A whole synchronous handler: Catching, then ToGrpcStatus.
//   return Answer([&] { return Assign(store_.datasets().Get(request->name()), response); });
grpc::Status Answer(absl::FunctionRef<absl::Status()> handler);

// Moves a result into a response.
template <typename T>
absl::Status Assign(absl::StatusOr<T> result, T* response) {
  if (result.ok()) *response = *std::move(result);
  return result.status();
}

}  // namespace tasuki
