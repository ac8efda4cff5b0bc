// An error as it is stored in a job or sent over a pipe or the wire: google.rpc.Status.
#pragma once

#include "absl/status/status.h"
#include "google/rpc/status.pb.h"

namespace tasuki {

// Code, message, and every payload (model/errors/errors.h) as a detail.
google::rpc::Status StatusProto(const absl::Status& status);
// The reverse. OK if the code is 0.
absl::Status StatusOf(const google::rpc::Status& proto);

}  // namespace tasuki
