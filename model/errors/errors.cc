#include "model/errors/errors.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "model/errors/utf8.h"

namespace tasuki {
namespace {

constexpr char kDomain[] = "tasuki";
constexpr size_t kQuotedBytes = 80;
constexpr size_t kFaultBytes = 400;
// An error travels as trailing metadata, of which gRPC's receivers take 8 KiB by default: the text
// once percent-encoded (Japanese: 3 bytes for 1), and twice in base64 as google.rpc.Status.
constexpr size_t kAllFaultsBytes = 1200;

std::string Clip(absl::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return ToUtf8(text);
  size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return absl::StrCat(ToUtf8(text.substr(0, end)), "…");
}

}  // namespace

absl::Status MakeError(absl::StatusCode code, v1::ErrorReason reason, absl::string_view message,
                       const std::map<std::string, std::string>& metadata) {
  google::rpc::ErrorInfo info;
  info.set_reason(v1::ErrorReason_Name(reason));
  info.set_domain(kDomain);
  for (const auto& [key, value] : metadata) (*info.mutable_metadata())[key] = ToUtf8(value);
  absl::Status status(code, ToUtf8(message));
  status.SetPayload(kErrorInfoUrl, absl::Cord(info.SerializeAsString()));
  return status;
}

absl::Status DrainingError() {
  return MakeError(absl::StatusCode::kUnavailable, v1::DRAINING,
                   "The server is stopping; try again a little later, or ask another one.");
}

v1::ErrorReason ReasonOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kErrorInfoUrl);
  google::rpc::ErrorInfo info;
  v1::ErrorReason reason = v1::ERROR_REASON_UNSPECIFIED;
  if (!payload || !info.ParseFromString(std::string(*payload)) || info.domain() != kDomain ||
      !v1::ErrorReason_Parse(info.reason(), &reason)) {
    return v1::ERROR_REASON_UNSPECIFIED;
  }
  return reason;
}

absl::Status Annotate(const absl::Status& status, absl::string_view prefix) {
  if (status.ok()) return status;
  absl::Status annotated(status.code(), absl::StrCat(prefix, status.message()));
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    annotated.SetPayload(url, payload);
  });
  return annotated;
}

std::string Quote(absl::string_view value) {
  return absl::StrCat("\"", Clip(value, kQuotedBytes), "\"");
}

void Faults::Add(absl::string_view field, absl::string_view description) {
  faults_.push_back({Clip(field, kFaultBytes), Clip(description, kFaultBytes)});
}

absl::Status Faults::ToStatus() const {
  if (faults_.empty()) return absl::OkStatus();
  std::string message;
  google::rpc::BadRequest details;
  size_t told = 0;
  for (const Fault& fault : faults_) {
    const std::string line = absl::StrCat(fault.field, ": ", fault.description);
    if (told > 0 && message.size() + line.size() > kAllFaultsBytes) break;
    absl::StrAppend(&message, told > 0 ? "; " : "", line);
    auto* violation = details.add_field_violations();
    violation->set_field(fault.field);
    violation->set_description(fault.description);
    ++told;
  }
  if (told < faults_.size()) absl::StrAppend(&message, "; and ", faults_.size() - told, " more");
  absl::Status status = MakeError(absl::StatusCode::kInvalidArgument, v1::FIELD_INVALID, message);
  status.SetPayload(kBadRequestUrl, absl::Cord(details.SerializeAsString()));
  return status;
}

}  // namespace tasuki
