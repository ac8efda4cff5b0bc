// What an error of the server says beyond its code and message.
//
// Every absl::Status of the client that came from the server carries the google.rpc details that
// the server sent, as payloads under their type URLs ("type.googleapis.com/google.rpc.ErrorInfo",
// …). These functions read them. An error made on this side (a file that cannot be read, an
// unreachable server) has none. Values in, values out: any thread. What happened says ReasonOf
// (model/errors/errors.h): ERROR_REASON_UNSPECIFIED also where the server has a word that this
// client is too old to know. StatusOf (model/errors/status_proto.h) makes a status of an error in
// a message, such as TrainingJob.error.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "model/errors/errors.h"
#include "model/errors/status_proto.h"

namespace tasuki {

// A fault of one field of a request.
struct FieldFault {
  std::string field;  // proto path, such as "fine_tuning.tasks[1].weight"
  std::string description;
};

// Every fault of the request that the server named.
std::vector<FieldFault> FieldFaultsOf(const absl::Status& status);

// After which time the server wants to be asked again; nothing if it does not say.
std::optional<absl::Duration> RetryDelayOf(const absl::Status& status);

}  // namespace tasuki
