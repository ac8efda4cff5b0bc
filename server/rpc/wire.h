// Messages from and to bytes, for methods that take bytes: by itself gRPC answers UNIMPLEMENTED to
// bytes that are no message, such as text that is not UTF-8, and ends a stream without a word.
#pragma once

#include "absl/status/status.h"
#include "google/protobuf/descriptor.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "grpcpp/support/byte_buffer.h"
#include "model/errors/errors.h"

namespace tasuki {

// Elements of a message that was asked for: its fields, those of the messages in them, and each
// element of a repeated one. No request to classify needs more.
inline constexpr int kMaxElements = 20'000;

// LIMIT_EXCEEDED, INVALID_ARGUMENT, if there are more: an empty text has two bytes on the wire and
// many times that in memory. Looks at the bytes only. What is malformed is OK here.
absl::Status CheckElements(const grpc::ByteBuffer& bytes,
                           const google::protobuf::Descriptor& message);

// INVALID_ARGUMENT: FIELD_INVALID, LIMIT_EXCEEDED.
template <typename Message>
absl::Status Parse(grpc::ByteBuffer bytes, Message& message) {
  if (absl::Status status = CheckElements(bytes, *Message::descriptor()); !status.ok()) {
    return status;
  }
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
