// Calibration of a task's label distribution by one temperature (Guo et al. 2017, "On Calibration
// of Modern Neural Networks"): p = softmax(log p / T).
//
// Rows are log p of each label, as T5Scorer answers them; `gold` is the index of each row's right
// label. REQUIRES everywhere: as many of both, at least one row, at least one label in each row.
// Functions of values; any thread. The order of the rows does not matter, rounding aside.
#pragma once

#include <optional>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "google/protobuf/repeated_ptr_field.h"
#include "tasuki/v1/calibration.pb.h"

namespace tasuki {

inline constexpr double kMinTemperature = .05, kMaxTemperature = 20;
inline constexpr int kCalibrationBins = 15;

// Log p of each label, row by row.
using LabelScores = std::vector<std::vector<float>>;

// The calibrated distribution; adds up to 1.
std::vector<double> Probabilities(absl::Span<const float> log_p, double temperature);

// Mean of -log p(right label), in nats.
double MeanNll(const LabelScores& scores, absl::Span<const int> gold, double temperature);

// The temperature within the bounds of least MeanNll; 1 where no other has less.
double FitTemperature(const LabelScores& scores, absl::Span<const int> gold);

// NLL, ECE, Brier score and the bins behind ECE.
v1::Calibration::Figures CalibrationFigures(const LabelScores& scores, absl::Span<const int> gold,
                                            double temperature);

struct AbstainThreshold {
  double threshold = 0;  // rows whose highest probability is below it are not answered
  double precision = 0;  // right answers among those given
  double coverage = 0;   // share of the rows that are answered
};
// The lowest threshold with at least `precision`: 0, or the confidence of some row. nullopt if none
// has it.
std::optional<AbstainThreshold> ChooseThreshold(const LabelScores& scores,
                                                absl::Span<const int> gold, double temperature,
                                                double precision);

// The calibration of a task; one that is not calibrated (temperature 1) if there is none.
v1::Calibration CalibrationOf(
    const google::protobuf::RepeatedPtrField<v1::Calibration>& calibrations,
    absl::string_view task);

}  // namespace tasuki
