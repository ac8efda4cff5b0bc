// The one way to make an error that a caller of the service may see.
//
// An absl::Status carries the google.rpc details that the RPC layer sends on: ErrorInfo (reason,
// domain "tasuki", metadata) and BadRequest (one violation per fault) as payloads under their type
// URLs; bytes that are not UTF-8 become U+FFFD. All below works on values; no state, any thread.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "tasuki/v1/errors.pb.h"

namespace tasuki {

// A status with an ErrorInfo. `message` is a sentence for people: it names the thing, the limit and
// the next step. `metadata` holds the variable parts for programs.
absl::Status MakeError(absl::StatusCode code, v1::ErrorReason reason, absl::string_view message,
                       const std::map<std::string, std::string>& metadata = {});

// UNAVAILABLE, DRAINING: what a server that stops answers to new and to unfinished work.
absl::Status DrainingError();

// The reason of a status; ERROR_REASON_UNSPECIFIED if it has none.
v1::ErrorReason ReasonOf(const absl::Status& status);

// The same error with `prefix`, as it is, before its message ("config.json: "); details are kept.
// OK stays OK.
absl::Status Annotate(const absl::Status& status, absl::string_view prefix);

// `value` in double quotes for use in a message; a long one is cut between two characters.
std::string Quote(absl::string_view value);

// Type URLs of the payloads, each a serialized message of google/rpc/error_details.proto.
inline constexpr char kErrorInfoUrl[] = "type.googleapis.com/google.rpc.ErrorInfo";
inline constexpr char kBadRequestUrl[] = "type.googleapis.com/google.rpc.BadRequest";
inline constexpr char kRetryInfoUrl[] = "type.googleapis.com/google.rpc.RetryInfo";

// Collects every fault of a request, so that all are reported at once.
//
//   Faults faults;
//   if (epochs < 1) faults.Add("fine_tuning.recipe.epochs", "0 is not in 1 to 1,000");
//   return faults.ToStatus();
class Faults {
 public:
  // `field` is the proto path of the field, such as "fine_tuning.tasks[1].weight".
  void Add(absl::string_view field, absl::string_view description);
  bool empty() const { return faults_.empty(); }
  size_t size() const { return faults_.size(); }
  // OK if there is none; otherwise INVALID_ARGUMENT, FIELD_INVALID, with every fault in message and
  // BadRequest. gRPC allows 8 KiB for all of an error: beyond 1,200 bytes of text the rest is
  // counted instead ("and 12 more").
  absl::Status ToStatus() const;

 private:
  struct Fault {
    std::string field;
    std::string description;
  };
  std::vector<Fault> faults_;
};

}  // namespace tasuki
