// Shows the events of a training job as they come.
//
// In a pipe every event is a line; of progress only what is news: a new phase, 10 s or a tenth of
// the steps since the line before. On a terminal progress is one line that is redrawn in place, and
// all other events are lines above it. Thread-compatible.
#pragma once

#include <functional>
#include <optional>
#include <ostream>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki::cli {

class WatchView {
 public:
  struct Options {
    // Columns of the terminal, asked before each drawing; empty where there is none.
    std::function<int()> columns;
    absl::TimeZone zone = absl::LocalTimeZone();
  };

  // `out` must outlive this.
  WatchView(std::ostream& out, Options options);
  ~WatchView();  // takes the live line away
  WatchView(const WatchView&) = delete;
  WatchView& operator=(const WatchView&) = delete;

  void Show(const v1::TrainingJobEvent& event);
  // A line of our own, such as that the connection was lost.
  void Note(absl::string_view text);

 private:
  void Line(absl::string_view text);
  void ShowProgress(const v1::TrainingJobEvent& event);
  void Draw();

  std::ostream& out_;
  const Options options_;
  std::string live_line_;
  std::optional<v1::Progress> newest_;           // what the live line shows
  std::optional<v1::TrainingJobEvent> printed_;  // the last progress that became a line
};

// Progress in one line: "training  step 120 of 1,200 (10 %)  loss 1.2340  85.2 examples/s  1 min 20
// s left".
std::string ProgressText(const v1::Progress& progress);

// "[####----------------]"; `share` is cut to 0 to 1.
std::string Bar(double share, int columns);

}  // namespace tasuki::cli
