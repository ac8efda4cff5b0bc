#include "model/text/calibration.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

namespace tasuki {
namespace {

struct Slope {
  double first = 0, second = 0;
};

// The first two derivatives of MeanNll by b = 1/T. It is convex in b: the second is the mean
// variance of log p under the calibrated distribution.
Slope SlopeAt(const LabelScores& scores, absl::Span<const int> gold, double b) {
  Slope slope;
  for (size_t i = 0; i < scores.size(); ++i) {
    const std::vector<double> p = Probabilities(scores[i], 1 / b);
    double mean = 0, square = 0;
    for (size_t label = 0; label < p.size(); ++label) {
      if (p[label] == 0) continue;  // of -infinity, too
      // Relative to the right label, whose own share is then exactly 0.
      const double x = static_cast<double>(scores[i][label]) - scores[i][gold[i]];
      mean += p[label] * x;
      square += p[label] * x * x;
    }
    slope.first += mean;
    slope.second += square - mean * mean;
  }
  slope.first /= static_cast<double>(scores.size());
  slope.second /= static_cast<double>(scores.size());
  return slope;
}

// A row as its likeliest label alone has it.
struct Answer {
  double confidence = 0;
  bool right = false;
};

// By rising confidence.
std::vector<Answer> SortedAnswers(const LabelScores& scores, absl::Span<const int> gold,
                                  double temperature) {
  std::vector<Answer> answers;
  for (size_t i = 0; i < scores.size(); ++i) {
    const std::vector<double> p = Probabilities(scores[i], temperature);
    const auto top = std::max_element(p.begin(), p.end());
    answers.push_back({*top, top - p.begin() == gold[i]});
  }
  std::sort(answers.begin(), answers.end(), [](const Answer& a, const Answer& b) {
    return a.confidence != b.confidence ? a.confidence < b.confidence : a.right < b.right;
  });
  return answers;
}

// The end of the run of equal confidences that begins at `begin`.
size_t EndOfTies(const std::vector<Answer>& answers, size_t begin) {
  size_t end = begin + 1;
  while (end < answers.size() && answers[end].confidence == answers[begin].confidence) ++end;
  return end;
}

}  // namespace

std::vector<double> Probabilities(absl::Span<const float> log_p, double temperature) {
  const double top = *std::max_element(log_p.begin(), log_p.end());
  std::vector<double> p;
  double sum = 0;
  for (const float value : log_p) sum += p.emplace_back(std::exp((value - top) / temperature));
  for (double& value : p) value /= sum;
  return p;
}

double MeanNll(const LabelScores& scores, absl::Span<const int> gold, double temperature) {
  double sum = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    // Not by Probabilities: log of what has become 0 is not what is meant.
    const double top = *std::max_element(scores[i].begin(), scores[i].end());
    double weights = 0;
    for (const float value : scores[i]) weights += std::exp((value - top) / temperature);
    sum += std::log(weights) - (scores[i][gold[i]] - top) / temperature;
  }
  return sum / static_cast<double>(scores.size());
}

// Newton's method on the derivative, kept between bounds that close in on its zero. An NLL that
// falls all the way to the sharpest distribution has no minimum: the rows are (all but) all right,
// and would have every later mistake made with full confidence.
double FitTemperature(const LabelScores& scores, absl::Span<const int> gold) {
  double low = 1 / kMaxTemperature, high = 1 / kMinTemperature, b = 1;
  if (SlopeAt(scores, gold, low).first >= 0) {
    b = low;
  } else if (SlopeAt(scores, gold, high).first <= 0) {
    return 1;
  } else {
    for (int round = 0; round < 100; ++round) {
      const Slope slope = SlopeAt(scores, gold, b);
      (slope.first < 0 ? low : high) = b;
      double next = b - slope.first / slope.second;
      if (!(next > low && next < high)) next = std::sqrt(low * high);
      const bool there = std::abs(next - b) <= 1e-12 * b;
      b = next;
      if (there) break;
    }
  }
  const double fitted = std::clamp(1 / b, kMinTemperature, kMaxTemperature);
  return MeanNll(scores, gold, fitted) < MeanNll(scores, gold, 1) ? fitted : 1;
}

v1::Calibration::Figures CalibrationFigures(const LabelScores& scores, absl::Span<const int> gold,
                                            double temperature) {
  const double rows = static_cast<double>(scores.size());
  v1::Calibration::Figures figures;
  figures.set_nll(MeanNll(scores, gold, temperature));
  double brier = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    const std::vector<double> p = Probabilities(scores[i], temperature);
    for (size_t label = 0; label < p.size(); ++label) {
      const double off = p[label] - (static_cast<int>(label) == gold[i] ? 1 : 0);
      brier += off * off;
    }
  }
  figures.set_brier(brier / rows);

  // Rows of one confidence go together into the bin of their middle.
  const std::vector<Answer> answers = SortedAnswers(scores, gold, temperature);
  struct Sums {
    int64_t rows = 0, right = 0;
    double confidence = 0;
  };
  std::vector<Sums> bins(kCalibrationBins);
  for (size_t begin = 0, end; begin < answers.size(); begin = end) {
    end = EndOfTies(answers, begin);
    Sums& bin = bins[kCalibrationBins * (begin + end) / (2 * answers.size())];
    for (size_t i = begin; i < end; ++i) {
      ++bin.rows;
      bin.right += answers[i].right;
      bin.confidence += answers[i].confidence;
    }
  }
  double ece = 0;
  for (const Sums& sums : bins) {
    if (sums.rows == 0) continue;
    const double count = static_cast<double>(sums.rows);
    v1::Calibration::Bin& bin = *figures.add_bins();
    bin.set_row_count(sums.rows);
    bin.set_mean_confidence(sums.confidence / count);
    bin.set_accuracy(static_cast<double>(sums.right) / count);
    ece += count / rows * std::abs(bin.accuracy() - bin.mean_confidence());
  }
  figures.set_ece(ece);
  return figures;
}

std::optional<AbstainThreshold> ChooseThreshold(const LabelScores& scores,
                                                absl::Span<const int> gold, double temperature,
                                                double precision) {
  const std::vector<Answer> answers = SortedAnswers(scores, gold, temperature);
  size_t right = std::count_if(answers.begin(), answers.end(),
                               [](const Answer& answer) { return answer.right; });
  for (size_t begin = 0; begin < answers.size();) {
    const double answered = static_cast<double>(answers.size() - begin);
    const double reached = static_cast<double>(right) / answered;
    if (reached >= precision) {
      return AbstainThreshold{.threshold = begin == 0 ? 0 : answers[begin].confidence,
                              .precision = reached,
                              .coverage = answered / static_cast<double>(answers.size())};
    }
    for (const size_t end = EndOfTies(answers, begin); begin < end; ++begin) {
      right -= answers[begin].right;
    }
  }
  return std::nullopt;
}

v1::Calibration CalibrationOf(
    const google::protobuf::RepeatedPtrField<v1::Calibration>& calibrations,
    absl::string_view task) {
  for (const v1::Calibration& calibration : calibrations) {
    if (calibration.task() == task) return calibration;
  }
  v1::Calibration none;
  none.set_task(std::string(task));
  none.set_temperature(1);
  return none;
}

}  // namespace tasuki
