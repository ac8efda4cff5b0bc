#include "client/cli/watch_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "client/cli/text.h"

namespace tasuki::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

v1::TrainingJobEvent At(int64_t seconds) {
  v1::TrainingJobEvent event;
  event.set_attempt(1);
  event.mutable_create_time()->set_seconds(seconds);
  return event;
}

v1::TrainingJobEvent Training(int64_t seconds, int64_t step, int64_t total) {
  v1::TrainingJobEvent event = At(seconds);
  auto* progress = event.mutable_progress();
  progress->set_phase(v1::Progress::TRAINING);
  progress->set_step(step);
  progress->set_total_steps(total);
  progress->set_loss(1.234);
  progress->set_examples_per_second(85.25);
  progress->mutable_remaining()->set_seconds(80);
  return event;
}

v1::TrainingJobEvent State(int64_t seconds, v1::TrainingJob::State state,
                           const std::string& reason = "") {
  v1::TrainingJobEvent event = At(seconds);
  event.mutable_state_changed()->set_state(state);
  event.mutable_state_changed()->set_reason(reason);
  return event;
}

WatchView::Options Pipe() { return {.columns = nullptr, .zone = absl::UTCTimeZone()}; }
WatchView::Options Terminal(int columns) {
  return {.columns = [columns] { return columns; }, .zone = absl::UTCTimeZone()};
}

TEST(WatchView, ShowsTheRowsOfAnEvaluation) {
  v1::Progress progress;
  progress.set_phase(v1::Progress::EVALUATING);
  EXPECT_EQ(ProgressText(progress), "evaluating");
  progress.set_evaluated_rows(1200);
  progress.set_total_rows(4000);
  EXPECT_EQ(ProgressText(progress), "evaluating 1,200 of 4,000 rows");
  progress.set_step(120);
  progress.set_total_steps(1200);
  EXPECT_THAT(ProgressText(progress),
              HasSubstr("evaluating 1,200 of 4,000 rows  step 120 of 1,200 (10 %)"));
}

TEST(WatchView, ShowsNoLossBeforeTheFirstStepOfAnAttempt) {
  v1::Progress progress;
  progress.set_phase(v1::Progress::TRAINING);
  progress.set_step(120);
  progress.set_total_steps(1200);
  EXPECT_EQ(ProgressText(progress), "training  step 120 of 1,200 (10 %)");
}

TEST(WatchView, WritesALineForEachEventIntoAPipe) {
  std::ostringstream out;
  {
    WatchView view(out, Pipe());
    view.Show(State(0, v1::TrainingJob::QUEUED));
    view.Show(Training(60, 120, 1200));
    v1::TrainingJobEvent evaluation = At(61);
    evaluation.mutable_evaluation()->set_task("sentiment");
    evaluation.mutable_evaluation()->set_method(v1::Evaluation::TEACHER_FORCED);
    evaluation.mutable_evaluation()->set_split(v1::Evaluation::VALID);
    evaluation.mutable_evaluation()->set_step(120);
    evaluation.mutable_evaluation()->set_accuracy(.9);
    view.Show(evaluation);
    v1::TrainingJobEvent checkpoint = At(62);
    checkpoint.mutable_checkpoint_written()->set_step(120);
    checkpoint.mutable_checkpoint_written()->set_best(true);
    view.Show(checkpoint);
    v1::TrainingJobEvent message = At(63);
    message.mutable_message()->set_severity(v1::TrainingJobEvent::Message::WARNING);
    message.mutable_message()->set_text("two\nlines");
    view.Show(message);
    view.Show(State(64, v1::TrainingJob::FAILED, "CRASH_LOOP"));
  }
  EXPECT_EQ(out.str(),
            "00:00:00  QUEUED\n"
            "00:01:00  training  step 120 of 1,200 (10 %)  loss 1.2340  85.2 examples/s  1 min 20 "
            "s left\n"
            "00:01:01  evaluation at step 120, valid: sentiment, teacher forced  loss 0.0000  "
            "accuracy 0.9000  macro F1 0.0000 (majority class 0.0000, 0.0000)\n"
            "00:01:02  checkpoint at step 120, the best so far\n"
            "00:01:03  warning: two lines\n"
            "00:01:04  FAILED: CRASH_LOOP\n");
}

TEST(WatchView, WritesOnlyNewsOfProgressIntoAPipe) {
  std::ostringstream out;
  WatchView view(out, Pipe());
  for (int second = 0; second <= 30; ++second) view.Show(Training(second, second, 1000));
  const std::string by_time = out.str();
  EXPECT_EQ(std::count(by_time.begin(), by_time.end(), '\n'), 4);  // 0, 10, 20, 30 s
  for (int step = 31; step <= 1000; ++step) view.Show(Training(30, step, 1000));
  const std::string by_steps = out.str().substr(by_time.size());
  EXPECT_EQ(std::count(by_steps.begin(), by_steps.end(), '\n'), 9);  // 130, 230, … 930
}

TEST(WatchView, RedrawsOneLineOnATerminalBelowTheOthers) {
  std::ostringstream out;
  {
    WatchView view(out, Terminal(100));
    view.Show(Training(1, 100, 1000));
    view.Show(Training(2, 500, 1000));
    EXPECT_THAT(out.str(), Not(HasSubstr("\n")));
    EXPECT_THAT(out.str(), HasSubstr("\r\x1b[K[##########----------] training  500/1,000"));
    v1::TrainingJobEvent checkpoint = At(3);
    checkpoint.mutable_checkpoint_written()->set_step(500);
    out.str("");
    view.Show(checkpoint);
    // The live line goes, the event comes, the live line is there again.
    EXPECT_THAT(out.str(),
                testing::StartsWith("\r\x1b[K00:00:03  checkpoint at step 500\n\r\x1b[K["));
    out.str("");
  }
  EXPECT_EQ(out.str(), "\r\x1b[K");
}

TEST(WatchView, NeverDrawsALineThatWouldWrap) {
  for (const int columns : {20, 40, 60, 80}) {
    std::ostringstream out;
    WatchView view(out, Terminal(columns));
    view.Show(Training(1, 100, 1000));
    const std::string line = out.str().substr(out.str().rfind("\x1b[K") + 3);
    EXPECT_LT(DisplayWidth(line), columns);
    EXPECT_GT(DisplayWidth(line), 10);
  }
}

TEST(Bar, IsFilledByItsShare) {
  EXPECT_EQ(Bar(0, 4), "[----]");
  EXPECT_EQ(Bar(0.5, 4), "[##--]");
  EXPECT_EQ(Bar(2, 4), "[####]");
  EXPECT_EQ(Bar(-1, 4), "[----]");
}

}  // namespace
}  // namespace tasuki::cli
