#include "server/rpc/status.h"

#include <exception>
#include <optional>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "model/errors/errors.h"
#include "model/errors/status_proto.h"
#include "server/rpc/random_id.h"
#include "spdlog/spdlog.h"

namespace tasuki {
namespace {

// A client takes 8 KiB of trailers unless it asks for more, and drops the whole error beyond that.
// The message is there twice: percent-encoded, and within the details.
constexpr size_t kMaxEncodedMessageBytes = 2400;
constexpr size_t kMaxDetailsBytes = 4800;

// The reason of an error that came without one.
v1::ErrorReason UsualReason(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return v1::FIELD_INVALID;
    case absl::StatusCode::kNotFound:
      return v1::RESOURCE_NOT_FOUND;
    case absl::StatusCode::kAlreadyExists:
      return v1::RESOURCE_EXISTS;
    case absl::StatusCode::kDataLoss:
      return v1::FILE_CHANGED;
    case absl::StatusCode::kDeadlineExceeded:
      return v1::DEADLINE_PASSED;
    case absl::StatusCode::kUnavailable:
      return v1::STORE_UNAVAILABLE;
    default:
      return v1::ERROR_REASON_UNSPECIFIED;
  }
}

// When a caller should come back; nullopt if that would not help.
std::optional<absl::Duration> RetryAfter(absl::StatusCode code, v1::ErrorReason reason) {
  if (reason == v1::OUT_OF_MEMORY) return std::nullopt;  // until somebody makes room
  if (reason == v1::DISK_FULL) return absl::Minutes(1);
  if (reason == v1::MODEL_LOADING) return absl::Seconds(2);
  if (code == absl::StatusCode::kUnavailable) return absl::Seconds(1);
  if (code == absl::StatusCode::kResourceExhausted) return absl::Seconds(5);
  return std::nullopt;
}

size_t EncodedBytes(unsigned char c) { return c >= ' ' && c <= '~' && c != '%' ? 1 : 3; }

// The longest beginning that fits, cut between characters of UTF-8, with "…" where it was cut.
std::string Shorten(absl::string_view message) {
  size_t encoded = 0;
  for (size_t i = 0; i < message.size(); ++i) {
    encoded += EncodedBytes(message[i]);
    if (encoded <= kMaxEncodedMessageBytes) continue;
    while (i > 0 && (message[i] & 0xC0) == 0x80) --i;
    return absl::StrCat(message.substr(0, i), "…");
  }
  return std::string(message);
}

// Takes violations off the end until the details fit, and then whatever else is too long.
void Fit(google::rpc::Status& proto) {
  for (int i = 0; i < proto.details_size(); ++i) {
    google::rpc::BadRequest bad;
    if (!proto.details(i).UnpackTo(&bad)) continue;
    while (proto.ByteSizeLong() > kMaxDetailsBytes && bad.field_violations_size() > 1) {
      bad.mutable_field_violations()->RemoveLast();
      proto.mutable_details(i)->PackFrom(bad);
    }
  }
  for (int i = proto.details_size(); i-- > 0 && proto.ByteSizeLong() > kMaxDetailsBytes;) {
    if (!proto.details(i).Is<google::rpc::ErrorInfo>()) {
      proto.mutable_details()->DeleteSubrange(i, 1);
    }
  }
}

// A bug of ours: the cause is for the log only.
absl::Status Hide(const absl::Status& status) {
  const std::string id = RandomId().substr(0, 12);
  spdlog::error("error {}: {}", id, absl::Utf8SafeCEscape(status.ToString()));
  return MakeError(
      absl::StatusCode::kInternal, v1::INTERNAL_ERROR,
      absl::StrCat("The server met an error of its own; its log has the cause under ", id, "."),
      {{"error_id", id}});
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& original) {
  if (original.ok()) return grpc::Status::OK;
  absl::Status status = original;
  if (absl::IsInternal(status) || absl::IsUnknown(status)) {
    status = Hide(status);
  } else if (const v1::ErrorReason usual = UsualReason(status.code());
             usual != v1::ERROR_REASON_UNSPECIFIED &&
             ReasonOf(status) == v1::ERROR_REASON_UNSPECIFIED) {
    const absl::Status with_reason = MakeError(status.code(), usual, status.message());
    status.SetPayload(kErrorInfoUrl, *with_reason.GetPayload(kErrorInfoUrl));
  }
  const auto retry_after = RetryAfter(status.code(), ReasonOf(status));
  if (retry_after.has_value() && !status.GetPayload(kRetryInfoUrl).has_value()) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(absl::ToInt64Seconds(*retry_after));
    status.SetPayload(kRetryInfoUrl, absl::Cord(retry.SerializeAsString()));
  }
  google::rpc::Status proto = StatusProto(status);
  proto.set_message(Shorten(proto.message()));
  Fit(proto);
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), proto.message(),
                      proto.SerializeAsString());
}

absl::Status Catching(absl::FunctionRef<absl::Status()> handler) {
  try {
    return handler();
  } catch (const std::bad_alloc&) {
    return MakeError(absl::StatusCode::kResourceExhausted, v1::OUT_OF_MEMORY,
                     "The server has no memory left for this call.");
  } catch (const std::exception& error) {
    return absl::InternalError(error.what());
  } catch (...) {
    return absl::InternalError("an exception of no known type");
  }
}

grpc::Status Answer(absl::FunctionRef<absl::Status()> handler) {
  return ToGrpcStatus(Catching(handler));
}

}  // namespace tasuki
