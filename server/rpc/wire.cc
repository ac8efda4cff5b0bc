#include "server/rpc/wire.h"

#include "absl/strings/str_cat.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"
#include "grpcpp/support/proto_buffer_reader.h"

namespace tasuki {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;

constexpr int kMaxDepth = 32;

// Takes the elements of a message off `left`; false once there are none left, or the bytes are no
// message.
bool Count(google::protobuf::io::CodedInputStream& in, const google::protobuf::Descriptor& message,
           int depth, int64_t& left) {
  while (const uint32_t tag = in.ReadTag()) {
    if (--left < 0) return false;
    if (WireFormatLite::GetTagWireType(tag) != WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
      if (!WireFormatLite::SkipField(&in, tag)) return false;
      continue;
    }
    uint32_t length = 0;
    if (!in.ReadVarint32(&length)) return false;
    const FieldDescriptor* const field =
        message.FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag));
    if (field != nullptr && field->type() == FieldDescriptor::TYPE_MESSAGE && depth < kMaxDepth) {
      const auto limit = in.PushLimit(static_cast<int>(length));
      if (!Count(in, *field->message_type(), depth + 1, left) || !in.ConsumedEntireMessage()) {
        return false;
      }
      in.PopLimit(limit);
      continue;
    }
    // Packed numbers: a byte each at least.
    if (field != nullptr && field->is_packable() && (left -= length) < 0) return false;
    if (!in.Skip(static_cast<int>(length))) return false;
  }
  return true;
}

}  // namespace

absl::Status CheckElements(const grpc::ByteBuffer& bytes,
                           const google::protobuf::Descriptor& message) {
  grpc::ByteBuffer view = bytes;  // shares the slices
  grpc::ProtoBufferReader reader(&view);
  google::protobuf::io::CodedInputStream in(&reader);
  int64_t left = kMaxElements;
  Count(in, message, 0, left);
  if (left >= 0) return absl::OkStatus();
  return MakeError(absl::StatusCode::kInvalidArgument, v1::LIMIT_EXCEEDED,
                   absl::StrCat("The message has more than ", kMaxElements,
                                " fields and elements; no request needs as many."),
                   {{"limit", absl::StrCat(kMaxElements)}});
}

}  // namespace tasuki
