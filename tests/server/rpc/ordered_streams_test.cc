// StreamClassify over a real channel.

#include <gmock/gmock.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "tests/server/rpc/server_fixture.h"
#include "tests/testing/tiny_model.h"

namespace tasuki {
namespace {

using testing::HasSubstr;

class ClassifyStreamTest : public ServerFixture {
 protected:
  using Stream = grpc::ClientReaderWriter<v1::StreamClassifyRequest, v1::StreamClassifyResponse>;

  explicit ClassifyStreamTest(int max_queue_tokens = ServingOptions().max_queue_tokens)
      : ServerFixture(max_queue_tokens) {
    const std::string directory = data_->aside() + "/tiny";
    EXPECT_TRUE(WriteTinyModel(directory, {TinyTask("mood"), TinyTask("taste")}).ok());
    const auto version = registry_->Publish(
        {.model = "models/tiny", .directory = directory, .key = "trainingJobs/t", .load = true});
    EXPECT_TRUE(version.ok()) << version.status();
  }

  std::unique_ptr<Stream> Open() {
    return v1::ClassificationService::NewStub(channel_)->StreamClassify(&context_);
  }
  static v1::StreamClassifyRequest Message(int id, int texts, const std::string& text) {
    v1::StreamClassifyRequest message;
    message.set_id(absl::StrCat(id));
    message.mutable_request()->set_model("models/tiny");
    for (int i = 0; i < texts; ++i) message.mutable_request()->add_texts(text);
    return message;
  }
  // The value of a series, or 0.
  double Counted(const std::string& series) const {
    const std::string text = metrics_.Text();
    const size_t begin = text.find("\n" + series + " ");
    return begin == std::string::npos ? 0 : std::atof(&text[begin + series.size() + 2]);
  }
  double TextsAnswered() const {
    return Counted("tasuki_inference_texts_total{model=\"models/tiny/versions/1\",result=\"ok\"}");
  }

  grpc::ClientContext context_;
};

TEST_F(ClassifyStreamTest, AnswersEachMessageInOrder) {
  const auto stream = Open();
  std::thread writer([&] {
    for (int i = 0; i < 300; ++i) {
      EXPECT_TRUE(stream->Write(Message(i, 1 + i % 7, "the room was good")));
    }
    stream->WritesDone();
  });
  v1::StreamClassifyResponse answer;
  int count = 0;
  for (; stream->Read(&answer); ++count) {
    EXPECT_EQ(answer.id(), absl::StrCat(count));
    ASSERT_TRUE(answer.has_response()) << answer.error().message();
    EXPECT_EQ(answer.response().results_size(), 1 + count % 7);
    EXPECT_EQ(answer.response().model_version(), "models/tiny/versions/1");
    EXPECT_TRUE(answer.response().stage_times().has_forward());
  }
  writer.join();
  EXPECT_EQ(count, 300);
  const grpc::Status status = stream->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(ClassifyStreamTest, ARequestThatFailsDoesNotEndTheStream) {
  const auto stream = Open();
  v1::StreamClassifyRequest unknown = Message(1, 1, "x");
  unknown.mutable_request()->set_model("models/none");
  v1::StreamClassifyRequest with_long_id = Message(2, 1, "x");
  with_long_id.set_id(std::string(257, 'i'));
  for (const auto& message :
       {Message(0, 1, "x"), unknown, with_long_id, Message(3, 0, ""), v1::StreamClassifyRequest(),
        Message(5, 1, "\xff"), Message(6, 1, "x")}) {
    ASSERT_TRUE(stream->Write(message));
  }
  stream->WritesDone();
  std::vector<int> codes;
  v1::StreamClassifyResponse answer;
  while (stream->Read(&answer)) {
    codes.push_back(answer.error().code());
    if (codes.size() == 2) {
      google::rpc::ErrorInfo info;
      ASSERT_GT(answer.error().details_size(), 0);
      ASSERT_TRUE(answer.error().details(0).UnpackTo(&info));
      EXPECT_EQ(info.reason(), "RESOURCE_NOT_FOUND");
    }
  }
  EXPECT_THAT(codes, testing::ElementsAre(
                         0, grpc::StatusCode::NOT_FOUND, grpc::StatusCode::INVALID_ARGUMENT,
                         grpc::StatusCode::INVALID_ARGUMENT, grpc::StatusCode::INVALID_ARGUMENT,
                         grpc::StatusCode::INVALID_ARGUMENT, 0));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(ClassifyStreamTest, AClientThatDoesNotReadIsNotReadFromEither) {
  constexpr int kMessages = 240, kTexts = 256;
  // gRPC takes some 4 MB from the wire before anybody reads, even so.
  grpc::ChannelArguments narrow;
  narrow.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  narrow.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 64 << 10);
  channel_ =
      grpc::CreateCustomChannel(endpoint_->address(), grpc::InsecureChannelCredentials(), narrow);
  const auto stream = Open();
  std::thread writer([&] {
    for (int i = 0; i < kMessages; ++i) stream->Write(Message(i, kTexts, "good"));
    stream->WritesDone();
  });
  double before = -1;
  while (before < kTexts || TextsAnswered() > before) {  // until it stands still
    before = TextsAnswered();
    absl::SleepFor(absl::Milliseconds(500));
  }
  EXPECT_LT(before, kMessages * kTexts / 2) << "answers of some 40 KB wait for who reads them";
  v1::StreamClassifyResponse answer;
  int count = 0;
  for (; stream->Read(&answer); ++count) EXPECT_EQ(answer.id(), absl::StrCat(count));
  writer.join();
  EXPECT_EQ(count, kMessages);
  EXPECT_TRUE(stream->Finish().ok());
}

class SmallQueueTest : public ClassifyStreamTest {
 protected:
  SmallQueueTest() : ClassifyStreamTest(1000) {}
};

TEST_F(SmallQueueTest, AFullQueueIsWaitedFor) {
  const auto stream = Open();
  std::string text;
  while (text.size() < 220) text += "the room number 7 was good ";
  std::thread writer([&] {
    // Each has 512 tokens: no two of them fit into the queue.
    for (int i = 0; i < 50; ++i) stream->Write(Message(i, 4, text));
    stream->WritesDone();
  });
  v1::StreamClassifyResponse answer;
  int count = 0;
  for (; stream->Read(&answer); ++count) {
    EXPECT_TRUE(answer.has_response()) << answer.error().message();
    EXPECT_EQ(answer.id(), absl::StrCat(count));
  }
  writer.join();
  EXPECT_EQ(count, 50);
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(TextsAnswered(), 200);
  EXPECT_EQ(Counted("tasuki_admission_rejections_total{priority=\"bulk\",reason=\"queue_full\"}"),
            0);
}

TEST_F(ClassifyStreamTest, WhatIsCancelledIsNotComputed) {
  const auto stream = Open();
  std::string text;
  while (text.size() < 220) text += "the room number 7 was good ";
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(stream->Write(Message(i, 256, text)));
  v1::StreamClassifyResponse answer;
  ASSERT_TRUE(stream->Read(&answer));
  context_.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  Shutdown();
  EXPECT_LT(TextsAnswered(), 3 * 256);
  EXPECT_THAT(metrics_.Text(),
              HasSubstr("grpc_server_in_flight_requests{grpc_method=\"StreamClassify"
                        "\",grpc_service=\"tasuki.v1.ClassificationService\"} 0"));
}

TEST_F(ClassifyStreamTest, AServerThatStopsAnswersWhatItHasReadAndSaysSo) {
  const auto stream = Open();
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(stream->Write(Message(i, 2, "the room was good")));
  v1::StreamClassifyResponse answer;
  ASSERT_TRUE(stream->Read(&answer));
  std::thread stop([&] { Shutdown(); });
  int count = 1;
  for (; stream->Read(&answer); ++count) {
    EXPECT_EQ(answer.id(), absl::StrCat(count));
    EXPECT_TRUE(answer.has_response());
  }
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
  EXPECT_EQ(ReasonIn(status), "DRAINING");
  EXPECT_EQ(count, TextsAnswered() / 2) << "what was computed was answered";
  stop.join();
}

}  // namespace
}  // namespace tasuki
