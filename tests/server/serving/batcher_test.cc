#include "server/serving/batcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <thread>

#include "absl/strings/str_cat.h"
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
    absl::StatusOr<Batcher::Answer> result = Batcher::Answer();
    const absl::StatusOr<Batcher::Answer>& Await() {
      done.WaitForNotification();
      return result;
    }
  };

  static Classifier::Input InputOf(int32_t first, int tokens) {
    Classifier::Input input;
    input.tokens.assign(tokens, first);
    input.token_count = tokens;
    return input;
  }

  Batcher::Request RequestOf(std::vector<Classifier::Input> inputs, Answer& answer) {
    Batcher::Request request;
    request.model = model_;
    request.inputs = std::move(inputs);
    request.done = [&answer](absl::StatusOr<Batcher::Answer> result) {
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

  absl::Status SubmitAs(const std::string& caller, Priority priority, int tokens, Batcher& batcher,
                        Answer& answer) {
    Batcher::Request request = RequestOf({InputOf(1, tokens)}, answer);
    request.caller = caller;
    request.priority = priority;
    return batcher.Submit(std::move(request));
  }
  // The value of a series.
  double Counted(const std::string& series) const {
    const std::string text = metrics_.Text();
    const size_t begin = text.find("\n" + series + " ");
    EXPECT_NE(begin, std::string::npos) << series;
    return begin == std::string::npos ? -1 : std::atof(&text[begin + series.size() + 2]);
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
  EXPECT_THAT(answer.result->scores,
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
  EXPECT_THAT(answer.result->scores, ElementsAre(ElementsAre(-1, -2), ElementsAre(-2, -4),
                                                 ElementsAre(-3, -6), ElementsAre(-4, -8)));
  EXPECT_THAT(log_->passes(),
              ElementsAre(ElementsAre(6), ElementsAre(6), ElementsAre(30), ElementsAre(2)));
}

TEST_F(BatcherTest, ServesTheVersionWhoseRequestGoesFirst) {
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
  request.deadline = absl::Now() + absl::Milliseconds(20);
  ASSERT_TRUE(batcher.Submit(std::move(request)).ok());
  ASSERT_TRUE(Submit(batcher, {InputOf(1, 4)}, good).ok());
  flag->store(true);
  absl::SleepFor(absl::Milliseconds(30));
  log_->Open();
  EXPECT_TRUE(good.Await().ok());
  EXPECT_TRUE(absl::IsCancelled(cancelled.Await().status()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(expired.Await().status()));
  EXPECT_EQ(ReasonOf(expired.result.status()), v1::DEADLINE_PASSED);
  EXPECT_THAT(log_->passes(), ElementsAre(ElementsAre(1), ElementsAre(4)));
  EXPECT_EQ(Counted("tasuki_admission_rejections_total{priority=\"interactive\",reason="
                    "\"cancelled\"}"),
            1);
  EXPECT_EQ(
      Counted("tasuki_admission_rejections_total{priority=\"interactive\",reason=\"deadline\"}"),
      1);
  EXPECT_EQ(Counted("tasuki_inference_expired_executions_total"), 0);
}

TEST_F(BatcherTest, TakesNothingThatIsCancelledOrExpiredAlready) {
  Batcher batcher({}, metrics_);
  Answer answer;
  Batcher::Request request = RequestOf({InputOf(1, 2)}, answer);
  request.deadline = absl::Now();
  EXPECT_TRUE(absl::IsDeadlineExceeded(batcher.Admit(request, {1})));
  EXPECT_TRUE(absl::IsDeadlineExceeded(batcher.Submit(request)));
  request.deadline = absl::InfiniteFuture();
  request.cancelled = std::make_shared<std::atomic<bool>>(true);
  EXPECT_TRUE(absl::IsCancelled(batcher.Admit(request, {1})));
  EXPECT_TRUE(absl::IsCancelled(batcher.Submit(request)));
  batcher.Stop();
  EXPECT_EQ(answer.calls, 0);
}

TEST_F(BatcherTest, ACallerWhoFloodsTheQueueStandsBehindHimself) {
  Batcher batcher({.max_batch_tokens = 10}, metrics_);
  Answer first;
  Hold(batcher, first);
  std::array<Answer, 6> flood;
  for (Answer& answer : flood) {
    ASSERT_TRUE(SubmitAs("flood", Priority::kInteractive, 10, batcher, answer).ok());
  }
  std::array<Answer, 2> other;
  for (Answer& answer : other) {
    ASSERT_TRUE(SubmitAs("other", Priority::kInteractive, 7, batcher, answer).ok());
  }
  log_->Open();
  batcher.Stop();
  // Tags: of the flood 0, 10, 20, …; of the other 0 and 7.
  EXPECT_THAT(log_->passes(), ElementsAre(ElementsAre(1), ElementsAre(10), ElementsAre(7),
                                          ElementsAre(7), ElementsAre(10), ElementsAre(10),
                                          ElementsAre(10), ElementsAre(10), ElementsAre(10)));
}

TEST_F(BatcherTest, ALongRequestTakesTurnsWithThoseOfOthers) {
  Batcher batcher({.max_batch_tokens = 10}, metrics_);
  Answer first, longest, other;
  Hold(batcher, first);
  Batcher::Request request = RequestOf(std::vector(4, InputOf(1, 10)), longest);
  request.caller = "long";
  ASSERT_TRUE(batcher.Submit(std::move(request)).ok());
  ASSERT_TRUE(SubmitAs("other", Priority::kInteractive, 9, batcher, other).ok());
  log_->Open();
  batcher.Stop();
  EXPECT_THAT(log_->passes(), ElementsAre(ElementsAre(1), ElementsAre(10), ElementsAre(9),
                                          ElementsAre(10), ElementsAre(10), ElementsAre(10)));
  EXPECT_TRUE(longest.result.ok());
}

TEST_F(BatcherTest, InteractiveRequestsGoBeforeBulkAndWithoutIt) {
  Batcher batcher({}, metrics_);
  Answer first, a, b, c;
  Hold(batcher, first);
  ASSERT_TRUE(SubmitAs("x", Priority::kBulk, 5, batcher, a).ok());
  ASSERT_TRUE(SubmitAs("x", Priority::kInteractive, 6, batcher, b).ok());
  ASSERT_TRUE(SubmitAs("y", Priority::kInteractive, 7, batcher, c).ok());
  log_->Open();
  batcher.Stop();
  EXPECT_THAT(log_->passes(), ElementsAre(ElementsAre(1), ElementsAre(6, 7), ElementsAre(5)));
}

TEST_F(BatcherTest, AFullQueueKeepsWhatGoesFirst) {
  Batcher batcher({.max_queue_tokens = 20}, metrics_);
  Answer first, bulk, a, b, c, d, e;
  Hold(batcher, first);
  ASSERT_TRUE(SubmitAs("x", Priority::kBulk, 5, batcher, bulk).ok());
  ASSERT_TRUE(SubmitAs("x", Priority::kInteractive, 8, batcher, a).ok());
  ASSERT_TRUE(SubmitAs("x", Priority::kInteractive, 7, batcher, b).ok()) << "full now";
  ASSERT_TRUE(SubmitAs("x", Priority::kInteractive, 5, batcher, c).ok());
  EXPECT_EQ(ReasonOf(bulk.Await().status()), v1::QUEUE_FULL) << "bulk makes room";
  EXPECT_EQ(ReasonOf(SubmitAs("x", Priority::kInteractive, 1, batcher, d)), v1::QUEUE_FULL)
      << "one's own stay";
  ASSERT_TRUE(SubmitAs("y", Priority::kInteractive, 5, batcher, e).ok());
  EXPECT_EQ(ReasonOf(c.Await().status()), v1::QUEUE_FULL) << "the flood's last makes room";
  EXPECT_EQ(ReasonOf(SubmitAs("z", Priority::kInteractive, 30, batcher, d)), v1::QUEUE_FULL)
      << "what never fits pushes nobody out";
  log_->Open();
  batcher.Stop();
  EXPECT_TRUE(a.result.ok() && b.result.ok() && e.result.ok());
  EXPECT_EQ(d.calls, 0);
}

// Forward passes of a millisecond a token.
class PacedTest : public BatcherTest {
 protected:
  PacedTest() {
    log_->SetPace(absl::Milliseconds(1));
    for (const int tokens : {1, 10, 40}) {  // passes from which the pace is learnt
      Answer answer;
      EXPECT_TRUE(SubmitWithin(100'000, tokens, answer).ok());
      EXPECT_TRUE(answer.Await().ok());
    }
    absl::SleepFor(absl::Milliseconds(20));  // until the last is accounted for
  }
  absl::Status SubmitWithin(int milliseconds, int tokens, Answer& answer) {
    Batcher::Request request = RequestOf({InputOf(1, tokens)}, answer);
    request.deadline = absl::Now() + absl::Milliseconds(milliseconds);
    request.bytes = 3 * tokens;
    if (absl::Status status = batcher_.Admit(request, {request.bytes}); !status.ok()) return status;
    return batcher_.Submit(std::move(request));
  }

  Batcher batcher_{{.max_batch_tokens = 300}, metrics_};
};

TEST_F(PacedTest, RefusesAtOnceWhatCannotBeAnsweredInTime) {
  Answer first, a, b, c;
  Hold(batcher_, first);
  ASSERT_TRUE(SubmitWithin(10'000, 100, a).ok());
  const absl::Time begin = absl::Now();
  const absl::Status refused = SubmitWithin(100, 30, b);
  EXPECT_LT(absl::Now() - begin, absl::Milliseconds(50));
  EXPECT_EQ(ReasonOf(refused), v1::QUEUE_FULL) << refused;
  google::rpc::RetryInfo retry;
  ASSERT_TRUE(retry.ParseFromString(std::string(refused.GetPayload(kRetryInfoUrl).value())));
  EXPECT_GE(retry.retry_delay().nanos(), 10'000'000);
  EXPECT_TRUE(SubmitWithin(5000, 30, c).ok());
  log_->Open();
  batcher_.Stop();
  EXPECT_EQ(b.calls, 0);
  EXPECT_TRUE(c.result.ok());
}

TEST_F(PacedTest, NeverExecutesWhatCannotBeDoneInTimeAnyMore) {
  Answer first, a, b;
  Hold(batcher_, first);
  ASSERT_TRUE(SubmitWithin(300, 90, a).ok());
  ASSERT_TRUE(SubmitWithin(10'000, 80, b).ok());
  absl::SleepFor(absl::Milliseconds(270));  // 30 left of 300
  log_->Open();
  batcher_.Stop();
  EXPECT_TRUE(absl::IsDeadlineExceeded(a.result.status())) << a.result.status();
  EXPECT_TRUE(b.result.ok());
  EXPECT_THAT(log_->passes().back(), ElementsAre(80));
}

TEST_F(PacedTest, APassEndsBeforeTheDeadlineOfItsFirst) {
  Answer first, a, b;
  Hold(batcher_, first);
  ASSERT_TRUE(SubmitWithin(800, 80, a).ok());
  ASSERT_TRUE(SubmitWithin(10'000, 150, b).ok());
  absl::SleepFor(absl::Milliseconds(610));
  log_->Open();
  batcher_.Stop();
  EXPECT_TRUE(a.result.ok()) << a.result.status();
  EXPECT_THAT(log_->passes().back(), ElementsAre(150)) << "both together would have been too late";
}

TEST_F(PacedTest, TriesWhatStandsAloneSoThatAWrongEstimateIsCorrected) {
  Answer answer;
  ASSERT_TRUE(SubmitWithin(20, 90, answer).ok()) << "though it should take 90 ms";
  log_->SetPace(absl::ZeroDuration());
  batcher_.Stop();
  EXPECT_TRUE(answer.result.ok()) << answer.result.status();
}

TEST_F(BatcherTest, WaitsForMoreIfToldUntilThePassIsFull) {
  Batcher batcher({.max_batch_tokens = 10, .max_delay = absl::Milliseconds(100)}, metrics_);
  Answer a, b, c, d;
  const absl::Time begin = absl::Now();
  ASSERT_TRUE(Submit(batcher, {InputOf(1, 2)}, a).ok());
  ASSERT_TRUE(Submit(batcher, {InputOf(1, 3)}, b).ok());
  ASSERT_TRUE(a.Await().ok());
  ASSERT_TRUE(b.Await().ok());
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(100));
  EXPECT_GE(a.result->queue, absl::Milliseconds(100));
  EXPECT_THAT(log_->passes(), ElementsAre(ElementsAre(2, 3)));
  ASSERT_TRUE(Submit(batcher, {InputOf(1, 4)}, c).ok());
  ASSERT_TRUE(Submit(batcher, {InputOf(1, 6)}, d).ok());
  ASSERT_TRUE(d.Await().ok());
  EXPECT_LT(d.result->queue, absl::Milliseconds(90)) << "ten tokens are a full pass";
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
  EXPECT_THAT(answer.result->scores, SizeIs(20));
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
        request.caller = absl::StrCat(t % 3);
        request.priority = t % 2 == 0 ? Priority::kInteractive : Priority::kBulk;
        request.done = [&, id](absl::StatusOr<Batcher::Answer> answer) {
          if (++calls[id] > 1) return;
          const auto a = static_cast<float>(id);
          right += answer.ok() && answer->scores == Scores{{-a, -2 * a}, {-a - 1, -2 * a - 2}};
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
