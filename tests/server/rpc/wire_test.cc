#include "server/rpc/wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "inference/inference.pb.h"
#include "tasuki/v1/classification.pb.h"

namespace tasuki {
namespace {

grpc::ByteBuffer Bytes(const std::string& text) {
  const grpc::Slice slice(text);
  return {&slice, 1};
}

TEST(Wire, AMessageComesBackAsItWas) {
  v1::ClassifyRequest request;
  request.set_model("models/m");
  for (int i = 0; i < 256; ++i) request.add_texts(std::string(1000, 'x'));
  v1::ClassifyRequest parsed;
  ASSERT_TRUE(Parse(Serialize(request), parsed).ok());
  EXPECT_EQ(parsed.SerializeAsString(), request.SerializeAsString());
}

TEST(Wire, WhatIsMalformedIsRefused) {
  v1::ClassifyRequest parsed;
  for (const char* bytes : {"\x0a\xff\xff\xff\xff\x0f", "\x12\x02\xff\xfe", "\x0a\x05m", "\x07"}) {
    EXPECT_EQ(ReasonOf(Parse(Bytes(bytes), parsed)), v1::FIELD_INVALID);
  }
}

// Two bytes on the wire are some 32 in memory.
TEST(Wire, MoreElementsThanAnyRequestNeedsAreRefusedBeforeTheyTakeMemory) {
  v1::ClassifyRequest texts;
  for (int i = 0; i <= kMaxElements; ++i) texts.add_texts("");
  v1::ClassifyRequest parsed;
  EXPECT_EQ(ReasonOf(Parse(Serialize(texts), parsed)), v1::LIMIT_EXCEEDED);
  EXPECT_EQ(parsed.texts_size(), 0);

  inference::ModelInferRequest shape;
  for (int i = 0; i <= kMaxElements; ++i) shape.mutable_inputs()->Add();
  inference::ModelInferRequest inference;
  EXPECT_EQ(ReasonOf(Parse(Serialize(shape), inference)), v1::LIMIT_EXCEEDED);
  shape.clear_inputs();
  auto& input = *shape.add_inputs();
  for (int i = 0; i <= kMaxElements; ++i) input.add_shape(1);
  EXPECT_EQ(ReasonOf(Parse(Serialize(shape), inference)), v1::LIMIT_EXCEEDED);
  input.clear_shape();
  for (int i = 0; i <= kMaxElements; ++i) input.mutable_contents()->add_bytes_contents("");
  EXPECT_EQ(ReasonOf(Parse(Serialize(shape), inference)), v1::LIMIT_EXCEEDED);

  std::string unknown;
  for (int i = 0; i <= kMaxElements; ++i) unknown += "\xfa\x3e" + std::string(1, '\0');
  EXPECT_EQ(ReasonOf(Parse(Bytes(unknown), parsed)), v1::LIMIT_EXCEEDED);
}

}  // namespace
}  // namespace tasuki
