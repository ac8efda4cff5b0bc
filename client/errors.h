// What an error of the server says beyond its code and message.
//
// Every absl::Status of the client that came from the server carries the google.rpc details that
// the server sent, as payloads under their type URLs ("type.googleapis.com/google.rpc.ErrorInfo",
// …). These functions read them. An error made on this side (a file that cannot be read, an
// unreachable server) has none. Values in, values out: any thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "google/rpc/status.pb.h"
#include "tasuki/v1/errors.pb.h"

namespace tasuki {

// A fault of one field of a request.
struct FieldFault {
  std::string field;  // proto path, such as "fine_tuning.tasks[1].weight"
  std::string description;
};

// What happened; ERROR_REASON_UNSPECIFIED if the status does not say, or says it in a word that
// this client is too old to know.
v1::ErrorReason ErrorReasonOf(const absl::Status& status);

// Every fault of the request that the server named.
std::vector<FieldFault> FieldFaultsOf(const absl::Status& status);

// After which time the server wants to be asked again; nothing if it does not say.
std::optional<absl::Duration> RetryDelayOf(const absl::Status& status);

// A google.rpc.Status, such as TrainingJob.error, with its details as payloads.
absl::Status StatusFromProto(const google::rpc::Status& proto);

// The same error with `prefix` before its message; payloads are kept. OK stays OK.
absl::Status WithPrefix(const absl::Status& status, absl::string_view prefix);

}  // namespace tasuki
