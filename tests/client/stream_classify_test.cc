#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "client/client.h"
#include "client/errors.h"
#include "tests/client/fake_server.h"

namespace tasuki {
namespace {

using ::testing::ElementsAre;

class StreamClassifyTest : public testing::Test {
 protected:
  StreamClassifyTest() {
    server_.classify = [this](int, const v1::ClassifyRequest& request,
                              v1::ClassifyResponse* answer) {
      ++answered_;
      if (request.texts(0) == fault_) {
        return ServerError(code_, "no", "REASON", {}, retry_after_seconds_);
      }
      answer->set_model_version(request.texts(0));
      return grpc::Status::OK;
    };
    options_.first_backoff = absl::Milliseconds(1);
    options_.max_backoff = absl::Milliseconds(10);
  }

  // Sends requests 0 to `count` - 1; what was handed to `use`, in order.
  absl::Status Stream(int count) {
    Client client = *Client::Connect(server_.address(), options_);
    return client.StreamClassify(
        [&, i = 0]() mutable -> absl::StatusOr<std::optional<v1::ClassifyRequest>> {
          if (i == ends_at_) return absl::InvalidArgumentError("row 7 is not UTF-8");
          if (i == count) return std::nullopt;
          v1::ClassifyRequest request;
          request.add_texts(absl::StrCat(i++));
          return request;
        },
        [&](const v1::ClassifyRequest& request, const v1::ClassifyResponse& answer) {
          EXPECT_EQ(request.texts(0), answer.model_version());
          used_.push_back(request.texts(0));
          return used_.size() == stops_at_ ? absl::CancelledError("enough") : absl::OkStatus();
        },
        [this](const absl::Status& status) { lost_.push_back(status); });
  }
  std::vector<std::string> UpTo(int count) {
    std::vector<std::string> numbers;
    for (int i = 0; i < count; ++i) numbers.push_back(absl::StrCat(i));
    return numbers;
  }

  FakeServer server_;
  ClientOptions options_;
  std::atomic<int> answered_ = 0;
  std::string fault_;
  grpc::StatusCode code_ = grpc::StatusCode::INVALID_ARGUMENT;
  int retry_after_seconds_ = -1;
  int ends_at_ = -1;
  size_t stops_at_ = 0;
  std::vector<std::string> used_;
  std::vector<absl::Status> lost_;
};

TEST_F(StreamClassifyTest, HandsOutAnswersInOrder) {
  EXPECT_TRUE(Stream(0).ok());
  EXPECT_THAT(used_, ElementsAre());
  const absl::Status status = Stream(1000);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(used_, UpTo(1000));
  EXPECT_EQ(answered_, 1000);
}

TEST_F(StreamClassifyTest, GoesOnWhereALostConnectionLeftOff) {
  server_.stream_classify = [](int call, int message) {
    return message == 40 && call < 10 ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone")
                                      : grpc::Status::OK;
  };
  const absl::Status status = Stream(500);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(used_, UpTo(500)) << "each once";
}

TEST_F(StreamClassifyTest, GivesUpOnAServerThatAnswersNothing) {
  server_.stream_classify = [&](int, int) {
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone");
  };
  options_.patience = absl::Milliseconds(500);
  EXPECT_TRUE(absl::IsUnavailable(Stream(5)));
  EXPECT_FALSE(lost_.empty());
}

TEST_F(StreamClassifyTest, WaitsForAServerLongerThanACallDoes) {
  server_.stream_classify = [](int call, int message) {
    return message == (call == 1 ? 40 : 1) && call < 20
               ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone")
               : grpc::Status::OK;
  };
  const absl::Status status = Stream(500);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(used_, UpTo(500)) << "each once";
  EXPECT_EQ(lost_.size(), 19);
  EXPECT_THAT(std::string(lost_.front().message()), testing::HasSubstr("gone"));
}

TEST_F(StreamClassifyTest, EndsWithTheErrorOfARequest) {
  fault_ = "7";
  const absl::Status status = Stream(100);
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_EQ(used_, UpTo(7));
}

TEST_F(StreamClassifyTest, AsksAgainByItselfForWhatMayBeBetterInAMoment) {
  fault_ = "7";
  code_ = grpc::StatusCode::UNAVAILABLE;
  retry_after_seconds_ = 0;
  server_.classify = [answer = server_.classify, failures = std::make_shared<std::atomic<int>>(0)](
                         int call, const auto& request, auto* response) {
    if (*failures == 10) {  // more than a call makes attempts
      response->set_model_version(request.texts(0));
      return grpc::Status::OK;
    }
    const grpc::Status status = answer(call, request, response);
    *failures += !status.ok();
    return status;
  };
  const absl::Status status = Stream(20);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(used_, UpTo(20));
  EXPECT_EQ(lost_.size(), 10);
}

TEST_F(StreamClassifyTest, EndsWithTheErrorsOfTheCaller) {
  ends_at_ = 7;
  EXPECT_EQ(Stream(100).message(), "row 7 is not UTF-8");
  ends_at_ = -1;
  used_.clear();
  stops_at_ = 5;
  EXPECT_EQ(Stream(100).message(), "enough");
  EXPECT_EQ(used_, UpTo(5));
}

TEST_F(StreamClassifyTest, EndsWhenNoAnswerComesInTime) {
  options_.classify_timeout = absl::Milliseconds(100);
  server_.stream_classify = [](int, int message) {
    if (message == 3) absl::SleepFor(absl::Seconds(1));
    return grpc::Status::OK;
  };
  EXPECT_TRUE(absl::IsDeadlineExceeded(Stream(10)));
  EXPECT_EQ(used_, UpTo(2));
}

TEST_F(StreamClassifyTest, EndsWhenItIsStopped) {
  std::stop_source stop;
  options_.stop = stop.get_token();
  server_.stream_classify = [&](int, int message) {
    if (message == 3) stop.request_stop();
    return grpc::Status::OK;
  };
  EXPECT_TRUE(absl::IsCancelled(Stream(1'000'000)));
}

}  // namespace
}  // namespace tasuki
