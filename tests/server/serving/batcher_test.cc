#include "server/serving/batcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"
#include "google/rpc/error_details.pb.h"
#include "model/errors/errors.h"
#include "tests/testing/fake_classifier.h"

namespace tasuki {
namespace {

using testing::ElementsAre;
using testing::SizeIs;

using Scores = std::vector<std::vector<float>>;

class BatcherTest : public testing::Test {
 protected:
  // An answer that will come, and how often it came.
  struct Answer {
    absl::Notification done;
    std::atomic<int> calls = 0;
    absl::StatusOr<Scores> result = Scores();
    const absl::StatusOr<Scores>& Await() {
      done.WaitForNotification();
      return result;
    }
  };

  static Classifier::Input InputOf(int32_t first, int tokens) {
    Classifier::Input input;
    input.tokens.assign(tokens, first);
    return input;
  }

  Batcher::Request RequestOf(std::vector<Classifier::Input> inputs, Answer& answer) {
    Batcher::Request request;
    request.model = model_;
    request.inputs = std::move(inputs);
    request.done = [&answer](absl::StatusOr<Scores> result) {
      ++answer.calls;
      answer.result = std::move(result);
      if (answer.calls == 1) answer.done.Notify();
    };
    return request;
  }
  absl::Status Submit(Batcher& batcher, std::vector<Classifier::Input> inputs, Answer& answer) {
    return batcher.Submit(RequestOf(std::move(inputs), answer));
  }
  // Lets the executor take one request and holds it there: what comes next must wait.
  void Hold(Batcher& batcher, Answer& answer) {
    log_->Close();
    ASSERT_TRUE(Submit(batcher, {InputOf(1, 1)}, answer).ok());
    log_->AwaitHeld();
  }

  Metrics metrics_;
  std::shared_ptr<ScoreLog> log_ = std::make_shared<ScoreLog>();
  std::shared_ptr<const LoadedModel> model_ = FakeModel("models/m/versions/1", log_, metrics_);
};

TEST_F(BatcherTest, AnswersEachInputInTheOrderOfTheRequest) {
  Batcher batcher({}, metrics_);
  Answer answer;
  ASSERT_TRUE(Submit(batcher, {InputOf(7, 9), InputOf(2, 1), InputOf(5, 4)}, answer).ok());
  ASSERT_TRUE(answer.Await().ok());
  EXPECT_THAT(*answer.result,
              ElementsAre(ElementsAre(-7, -14), ElementsAre(-2, -4), ElementsAre(-5, -10)));
  EXPECT_THAT(log_->passes(), ElementsAre(ElementsAre(1, 4, 9))) << "sorted by length";
}

TEST_F(BatcherTest, PutsWaitingRequestsIntoOnePassUpToTheTokenBudget) {
  Batcher batcher({.max_batch_tokens = 10}, metrics_);
  Answer first, a, b, c;
  Hold(batcher, first);
  ASSERT_TRUE(Submit(batcher, {InputOf(1, 6)}, a).ok());
  ASSERT_TRUE(Submit(batcher, {InputOf(1, 4)}, b).ok());
  ASSERT_TRUE(Submit(batcher, {InputOf(1, 1)}, c).ok());
  log_->Open();
  EXPECT_TRUE(c.Await().ok());
  EXPECT_THAT(log_->passes(), ElementsAre(ElementsAre(1), ElementsAre(4, 6), ElementsAre(1)));
}

TEST_F(BatcherTest, SplitsARequestThatDoesNotFitIntoOnePass) {
  Batcher batcher({.max_batch_tokens = 10}, metrics_);
  Answer answer;
  ASSERT_TRUE(
      Submit(batcher, {InputOf(1, 6), InputOf(2, 6), InputOf(3, 30), InputOf(4, 2)}, answer).ok());
  ASSERT_TRUE(answer.Await().ok());
  EXPECT_THAT(*answer.result, ElementsAre(ElementsAre(-1, -2), ElementsAre(-2, -4),
                                          ElementsAre(-3, -6), ElementsAre(-4, -8)));
  EXPECT_THAT(log_->passes(),
              ElementsAre(ElementsAre(6), ElementsAre(6), ElementsAre(30), ElementsAre(2)));
}

TEST_F(BatcherTest, ServesTheVersionWhoseOldestRequestWaitsLongest) {
  Batcher batcher({}, metrics_);
  const auto other = FakeModel("models/m/versions/2", log_, metrics_);
  Answer first, a, b;
  Hold(batcher, first);
  Batcher::Request request = RequestOf({InputOf(1, 2)}, a);
  request.model = other;
  ASSERT_TRUE(batcher.Submit(std::move(request)).ok());
  ASSERT_TRUE(Submit(batcher, {InputOf(1, 3)}, b).ok());
  log_->Open();
  EXPECT_TRUE(b.Await().ok());
  EXPECT_THAT(log_->passes(), ElementsAre(ElementsAre(1), ElementsAre(2), ElementsAre(3)));
}

TEST_F(BatcherTest, DropsCancelledAndExpiredRequestsBeforeTheyCostAnything) {
  Batcher batcher({}, metrics_);
  Answer first, cancelled, expired, good;
  Hold(batcher, first);
  const auto flag = std::make_shared<std::atomic<bool>>(false);
  Batcher::Request request = RequestOf({InputOf(1, 2)}, cancelled);
  request.cancelled = flag;
  ASSERT_TRUE(batcher.Submit(std::move(request)).ok());
  request = RequestOf({InputOf(1, 3)}, expired);
  request.deadline = absl::Now();
  ASSERT_TRUE(batcher.Submit(std::move(request)).ok());
  ASSERT_TRUE(Submit(batcher, {InputOf(1, 4)}, good).ok());
  flag->store(true);
  log_->Open();
  EXPECT_TRUE(good.Await().ok());
  EXPECT_TRUE(absl::IsCancelled(cancelled.Await().status()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(expired.Await().status()));
  EXPECT_EQ(ReasonOf(expired.result.status()), v1::DEADLINE_PASSED);
  EXPECT_THAT(log_->passes(), ElementsAre(ElementsAre(1), ElementsAre(4)));
}

TEST_F(BatcherTest, RefusesWhatTheQueueCannotHoldAndSaysWhenToComeBack) {
  Batcher batcher({.max_queue_tokens = 8}, metrics_);
  Answer first, a, b, c;
  Hold(batcher, first);
  ASSERT_TRUE(Submit(batcher, {InputOf(1, 5)}, a).ok());
  const absl::Status full = Submit(batcher, {InputOf(1, 4)}, b);
  EXPECT_TRUE(absl::IsResourceExhausted(full)) << full;
  EXPECT_EQ(ReasonOf(full), v1::QUEUE_FULL);
  google::rpc::RetryInfo retry;
  ASSERT_TRUE(full.GetPayload(kRetryInfoUrl).has_value());
  ASSERT_TRUE(retry.ParseFromString(std::string(*full.GetPayload(kRetryInfoUrl))));
  EXPECT_GT(retry.retry_delay().seconds() + retry.retry_delay().nanos(), 0);
  EXPECT_TRUE(Submit(batcher, {InputOf(1, 3)}, c).ok()) << "5 + 3 tokens fit";
  log_->Open();
  EXPECT_TRUE(c.Await().ok());
  EXPECT_EQ(b.calls, 0);
}

TEST_F(BatcherTest, TakesARequestLargerThanTheQueueWhenNothingWaits) {
  Batcher batcher({.max_batch_tokens = 4, .max_queue_tokens = 8}, metrics_);
  Answer answer;
  ASSERT_TRUE(Submit(batcher, std::vector(20, InputOf(1, 2)), answer).ok());
  ASSERT_TRUE(answer.Await().ok());
  EXPECT_THAT(*answer.result, SizeIs(20));
}

TEST_F(BatcherTest, FailsARequestOnceThoughItWasSplit) {
  Batcher batcher({.max_batch_tokens = 4}, metrics_);
  log_->Fail(absl::ResourceExhaustedError("no memory"));
  Answer failed, next;
  ASSERT_TRUE(Submit(batcher, std::vector(5, InputOf(1, 4)), failed).ok());
  ASSERT_TRUE(Submit(batcher, {InputOf(1, 3)}, next).ok());
  EXPECT_TRUE(next.Await().ok()) << "one failure is not the end";
  batcher.Stop();
  EXPECT_TRUE(absl::IsResourceExhausted(failed.Await().status()));
  EXPECT_EQ(failed.calls, 1);
  EXPECT_THAT(log_->passes(), ElementsAre(ElementsAre(4), ElementsAre(3)))
      << "the rest of a failed request is not computed";
}

TEST_F(BatcherTest, StopAnswersWhatWaitsAndRefusesTheRest) {
  Batcher batcher({}, metrics_);
  Answer first, waiting, late;
  Hold(batcher, first);
  ASSERT_TRUE(Submit(batcher, {InputOf(1, 2)}, waiting).ok());
  log_->Open();
  batcher.Stop();
  EXPECT_TRUE(first.done.HasBeenNotified());
  EXPECT_TRUE(waiting.done.HasBeenNotified());
  const absl::Status refused = Submit(batcher, {InputOf(1, 2)}, late);
  EXPECT_TRUE(absl::IsUnavailable(refused));
  EXPECT_EQ(ReasonOf(refused), v1::DRAINING);
}

TEST_F(BatcherTest, AnswersEveryRequestOfManyThreadsExactlyOnce) {
  constexpr int kThreads = 8, kRequests = 200;
  Batcher batcher({.max_batch_tokens = 50}, metrics_);
  std::vector<std::atomic<int>> calls(kThreads * kRequests);
  std::atomic<int> right = 0;
  absl::BlockingCounter left(kThreads * kRequests);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kRequests; ++i) {
        const int id = t * kRequests + i;
        Batcher::Request request;
        request.model = model_;
        request.inputs = {InputOf(id, 1 + id % 7), InputOf(id + 1, 1 + id % 3)};
        request.done = [&, id](absl::StatusOr<Scores> scores) {
          if (++calls[id] > 1) return;
          const auto a = static_cast<float>(id);
          right += scores.ok() && *scores == Scores{{-a, -2 * a}, {-a - 1, -2 * a - 2}};
          left.DecrementCount();
        };
        EXPECT_TRUE(batcher.Submit(std::move(request)).ok());
      }
    });
  }
  for (auto& thread : threads) thread.join();
  left.Wait();
  batcher.Stop();
  EXPECT_EQ(right, kThreads * kRequests);
  for (const auto& count : calls) EXPECT_EQ(count, 1);
}

TEST_F(BatcherTest, KeepsAModelUntilItsRequestIsAnswered) {
  Batcher batcher({}, metrics_);
  Answer answer;
  log_->Close();
  ASSERT_TRUE(Submit(batcher, {InputOf(1, 1)}, answer).ok());
  log_->AwaitHeld();
  const std::weak_ptr<const LoadedModel> model = model_;
  model_.reset();
  EXPECT_FALSE(model.expired());
  log_->Open();
  batcher.Stop();
  EXPECT_TRUE(answer.done.HasBeenNotified());
  EXPECT_TRUE(model.expired());
}

}  // namespace
}  // namespace tasuki
