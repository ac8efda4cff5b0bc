#include "client/cli/watch_view.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/evaluations.h"
#include "client/cli/text.h"

namespace tasuki::cli {
namespace {

constexpr int kBarColumns = 20;
constexpr int kUsualColumns = 80;

absl::Time TimeOf(const v1::TrainingJobEvent& event) {
  return absl::FromUnixSeconds(event.create_time().seconds());
}

double Share(const v1::Progress& progress) {
  if (progress.total_steps() <= 0) return 0;
  return static_cast<double>(progress.step()) / static_cast<double>(progress.total_steps());
}

// With the rows of an evaluation.
std::string PhaseText(const v1::Progress& progress) {
  if (progress.phase() == v1::Progress::PHASE_UNSPECIFIED) return "starting";
  std::string text = Words(v1::Progress::Phase_Name(progress.phase()));
  if (progress.total_rows() > 0) {
    absl::StrAppend(&text, " ", Count(progress.evaluated_rows()), " of ",
                    Count(progress.total_rows()), " rows");
  }
  return text;
}

// Loss, speed and time left, as far as they are known.
std::string Measures(const v1::Progress& progress) {
  std::string text;
  if (progress.examples_per_second() > 0) {  // or else no step of this attempt yet, and no loss
    absl::StrAppendFormat(&text, "  loss %s  %.1f examples/s", Figure(progress.loss()),
                          progress.examples_per_second());
  }
  if (progress.remaining().seconds() > 0) {
    absl::StrAppend(&text, "  ", Span(absl::Seconds(progress.remaining().seconds())), " left");
  }
  return text;
}

std::string EvaluationText(const v1::Evaluation& evaluation) {
  std::string text =
      absl::StrCat("evaluation at step ", Count(evaluation.step()), ", ",
                   Words(v1::Evaluation::Split_Name(evaluation.split())), ": ",
                   evaluation.task().empty() ? "" : absl::StrCat(evaluation.task(), ", "),
                   Words(v1::Evaluation::Method_Name(evaluation.method())), "  loss ",
                   Figure(evaluation.loss()));
  if (!evaluation.task().empty()) {
    absl::StrAppend(&text, "  accuracy ", Figure(evaluation.accuracy()), "  macro F1 ",
                    Figure(evaluation.macro_f1()), " (majority class ",
                    Figure(evaluation.majority_accuracy()), ", ",
                    Figure(evaluation.majority_macro_f1()), ")");
  }
  return text;
}

std::string TextOf(const v1::TrainingJobEvent& event) {
  switch (event.event_case()) {
    case v1::TrainingJobEvent::kStateChanged: {
      const auto& change = event.state_changed();
      std::string text = v1::TrainingJob::State_Name(change.state());
      if (change.state() == v1::TrainingJob::RUNNING && event.attempt() > 1) {
        absl::StrAppend(&text, ", attempt ", event.attempt());
      }
      if (!change.reason().empty()) absl::StrAppend(&text, ": ", change.reason());
      return text;
    }
    case v1::TrainingJobEvent::kProgress:
      return ProgressText(event.progress());
    case v1::TrainingJobEvent::kEvaluation:
      return EvaluationText(event.evaluation());
    case v1::TrainingJobEvent::kCheckpointWritten:
      return absl::StrCat("checkpoint at step ", Count(event.checkpoint_written().step()),
                          event.checkpoint_written().best() ? ", the best so far" : "");
    case v1::TrainingJobEvent::kMessage: {
      const auto& message = event.message();
      const bool plain = message.severity() <= v1::TrainingJobEvent::Message::INFO;
      return absl::StrCat(
          plain ? "" : Words(v1::TrainingJobEvent::Message::Severity_Name(message.severity())),
          plain ? "" : ": ", message.text());
    }
    case v1::TrainingJobEvent::EVENT_NOT_SET:
      break;
  }
  return "an event of a kind that this version does not know";
}

}  // namespace

WatchView::WatchView(std::ostream& out, Options options)
    : out_(out), options_(std::move(options)) {}

WatchView::~WatchView() {
  newest_.reset();
  Draw();
}

void WatchView::Show(const v1::TrainingJobEvent& event) {
  if (event.has_progress()) return ShowProgress(event);
  // A new state or attempt makes old progress stale.
  if (event.has_state_changed()) newest_.reset();
  Line(absl::StrCat(absl::FormatTime("%H:%M:%S", TimeOf(event), options_.zone), "  ",
                    TextOf(event)));
}

void WatchView::Note(absl::string_view text) { Line(text); }

void WatchView::Line(absl::string_view text) {
  if (!live_line_.empty()) out_ << "\r\x1b[K";
  live_line_.clear();
  out_ << Printable(text) << '\n';
  Draw();
  out_.flush();
}

void WatchView::ShowProgress(const v1::TrainingJobEvent& event) {
  if (options_.columns) {
    newest_ = event.progress();
    return Draw();
  }
  const bool news = !printed_ || printed_->progress().phase() != event.progress().phase() ||
                    TimeOf(event) - TimeOf(*printed_) >= absl::Seconds(10) ||
                    Share(event.progress()) - Share(printed_->progress()) >= 0.1;
  if (!news) return;
  printed_ = event;
  Line(absl::StrCat(absl::FormatTime("%H:%M:%S", TimeOf(event), options_.zone), "  ",
                    ProgressText(event.progress())));
}

void WatchView::Draw() {
  if (!options_.columns) return;
  std::string line;
  if (newest_) {
    const int asked = options_.columns();
    const int columns = asked > 10 ? asked : kUsualColumns;
    line = newest_->total_steps() > 0
               ? absl::StrCat(Bar(Share(*newest_), kBarColumns), " ", PhaseText(*newest_), "  ",
                              Count(newest_->step()), "/", Count(newest_->total_steps()),
                              Measures(*newest_))
               : PhaseText(*newest_);
    line = Shorten(line, columns - 1);  // a line that wraps could not be redrawn in place
  }
  if (line == live_line_) return;
  out_ << "\r\x1b[K" << line << std::flush;
  live_line_ = line;
}

std::string ProgressText(const v1::Progress& progress) {
  if (progress.total_steps() <= 0) return PhaseText(progress);
  return absl::StrCat(PhaseText(progress), "  step ", Count(progress.step()), " of ",
                      Count(progress.total_steps()),
                      absl::StrFormat(" (%.0f %%)", 100 * Share(progress)), Measures(progress));
}

std::string Bar(double share, int columns) {
  const int full = static_cast<int>(std::clamp(share, 0.0, 1.0) * columns);
  return absl::StrCat("[", std::string(full, '#'), std::string(columns - full, '-'), "]");
}

}  // namespace tasuki::cli
