// Messages from and to bytes, for methods that take bytes: by itself gRPC answers UNIMPLEMENTED to
// bytes that are no message, such as text that is not UTF-8, and ends a stream without a word.
#pragma once

#include "absl/status/status.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "grpcpp/support/byte_buffer.h"
#include "model/errors/errors.h"

namespace tasuki {

// INVALID_ARGUMENT, FIELD_INVALID.
template <typename Message>
absl::Status Parse(grpc::ByteBuffer bytes, Message& message) {
  if (grpc::SerializationTraits<Message>::Deserialize(&bytes, &message).ok()) {
    return absl::OkStatus();
  }
  return MakeError(absl::StatusCode::kInvalidArgument, v1::FIELD_INVALID,
                   "The message is malformed, or has text that is not UTF-8.");
}

template <typename Message>
grpc::ByteBuffer Serialize(const Message& message) {
  grpc::ByteBuffer bytes;
  bool own = false;
  // Fails for messages over 2 GiB only.
  static_cast<void>(grpc::SerializationTraits<Message>::Serialize(message, &bytes, &own));
  return bytes;
}

}  // namespace tasuki
