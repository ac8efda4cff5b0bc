// Holds a version to what is promised of its answers in every precision, on real texts.
//
// usage: bench-gate labels MODEL TASK ROWS [--scores FILE]
//        bench-gate batches MODEL ROWS COUNT [--seed N]
// ROWS is a canonical dataset (model/text/examples.h). Prints one line of JSON; exits with 1 if a
// promise is broken or something cannot be read, and with 2 if called wrongly.
//
// labels: scores all rows in fp32, bf16 and int8. Macro F1 in each; of bf16 and int8 the share of
// rows whose likeliest label is not that of fp32, and the largest |Δ log p|. --scores FILE gets a
// line of JSON a row for tests/oracles/scores.py: its number, the likeliest label in fp32, and in
// each precision log p of the task's labels.
// batches: COUNT batches of 1 to 320 random texts, each for a random task of the version, in random
// order, on 1, 2 or 3 threads: every answer has the very bits of the text alone on one thread.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "model/recipe/recipe.h"
#include "model/t5/classifier.h"
#include "model/text/examples.h"
#include "model/text/figures.h"
#include "nlohmann/json.hpp"

namespace tasuki {
namespace {

using Scores = std::vector<std::vector<float>>;  // of each text: log p of each label

// What a precision may change against fp32.
struct Gate {
  Precision precision;
  double most_changed;      // share of rows that get another label
  double most_of_macro_f1;  // difference, up or down
};
constexpr Gate kGates[] = {
    {Precision::kFp32, 0, 0}, {Precision::kBf16, .003, .005}, {Precision::kInt8, .01, .015}};
// A model that has learnt nothing, and answers one label by a wide margin, would pass any gate.
constexpr double kLeastMacroF1 = .6;

int Fail(const absl::Status& status) {
  std::cerr << "bench-gate: " << status << "\n";
  return 1;
}

absl::StatusOr<std::vector<v1::Example>> ReadRows(const std::string& path) {
  std::vector<v1::Example> rows;
  const absl::Status read = ReadExamples(path, [&](int64_t, v1::Example row) {
    rows.push_back(std::move(row));
    return absl::OkStatus();
  });
  if (!read.ok()) return read;
  if (rows.empty()) return absl::InvalidArgumentError(absl::StrCat(path, " has no row"));
  return rows;
}

double LargestDifference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(double{a[i]} - b[i]));
  return largest;
}

// To four digits.
double Short(double value) { return std::strtod(absl::StrFormat("%.4g", value).c_str(), nullptr); }

// {"fp32": x, …}
template <typename Values>
nlohmann::ordered_json OfEach(const Values& values) {
  nlohmann::ordered_json result;
  for (size_t i = 0; i < values.size(); ++i) {
    nlohmann::ordered_json& value = result[PrecisionName(kGates[i].precision)] = values[i];
    if (value.is_number_float()) value = Short(value.get<double>());
  }
  return result;
}

// ---- labels ------------------------------------------------------------------------------------

absl::StatusOr<Scores> ScoreAll(const Classifier& classifier, int task,
                                const std::vector<v1::Example>& rows) {
  Scores scores;
  for (size_t begin = 0; begin < rows.size(); begin += 64) {
    std::vector<Classifier::Input> inputs;
    std::vector<const Classifier::Input*> call;
    for (size_t i = begin; i < std::min(begin + 64, rows.size()); ++i) {
      auto input = classifier.Prepare(task, rows[i].text());
      if (!input.ok()) return input.status();
      inputs.push_back(*std::move(input));
    }
    for (const Classifier::Input& input : inputs) call.push_back(&input);
    auto answers = classifier.Score(call);
    if (!answers.ok()) return answers.status();
    for (std::vector<float>& answer : *answers) scores.push_back(std::move(answer));
  }
  return scores;
}

std::vector<int> Likeliest(const Scores& scores) {
  std::vector<int> labels;
  for (const std::vector<float>& of_labels : scores) {
    labels.push_back(
        static_cast<int>(std::max_element(of_labels.begin(), of_labels.end()) - of_labels.begin()));
  }
  return labels;
}

int Labels(const std::string& directory, const std::string& task_name, const std::string& path,
           const std::string& scores_path) {
  const auto rows = ReadRows(path);
  if (!rows.ok()) return Fail(rows.status());
  std::vector<Scores> scores;  // in each precision
  std::vector<int> gold;
  v1::Task labels;
  for (const Gate& gate : kGates) {
    ClassifierOptions options;
    options.threads = 2;
    options.precision = gate.precision;
    const auto classifier = Classifier::Load(directory, options);
    if (!classifier.ok()) return Fail(classifier.status());
    const int task = (*classifier)->TaskIndex(task_name);
    if (task < 0) return Fail(absl::NotFoundError(absl::StrCat("no task ", task_name)));
    auto answers = ScoreAll(**classifier, task, *rows);
    if (!answers.ok()) return Fail(answers.status());
    scores.push_back(*std::move(answers));
    if (!gold.empty()) continue;
    labels = (*classifier)->manifest().tasks(task);
    for (const v1::Example& row : *rows) {
      gold.push_back(LabelOfValue(labels, row.label()));
      if (gold.back() < 0) return Fail(absl::NotFoundError(absl::StrCat("label ", row.label())));
    }
  }

  const std::vector<int> expected = Likeliest(scores[0]);
  std::vector<double> macro_f1, changed, difference;
  bool kept = true;
  for (size_t i = 0; i < scores.size(); ++i) {
    const std::vector<int> answers = Likeliest(scores[i]);
    v1::Evaluation figures;
    FillFigures(gold, answers, labels.labels_size(), figures);
    macro_f1.push_back(figures.macro_f1());
    double others = 0, largest = 0;
    for (size_t row = 0; row < answers.size(); ++row) {
      others += answers[row] != expected[row];
      largest = std::max(largest, LargestDifference(scores[i][row], scores[0][row]));
    }
    changed.push_back(others / static_cast<double>(answers.size()));
    difference.push_back(largest);
    kept = kept && changed[i] <= kGates[i].most_changed &&
           std::abs(macro_f1[i] - macro_f1[0]) <= kGates[i].most_of_macro_f1;
  }
  kept = kept && macro_f1[0] > kLeastMacroF1;
  std::cout << nlohmann::ordered_json{{"rows", rows->size()},
                                      {"macro_f1", OfEach(macro_f1)},
                                      {"labels_changed", OfEach(changed)},
                                      {"change_of_log_p", OfEach(difference)},
                                      {"kept", kept}}
            << std::endl;

  if (!scores_path.empty()) {
    std::ofstream file(scores_path);
    for (size_t row = 0; row < rows->size(); ++row) {
      std::vector<std::vector<float>> of_row;
      for (const Scores& of_precision : scores) of_row.push_back(of_precision[row]);
      file << nlohmann::ordered_json{{"row", row + 1},
                                     {"predicted", labels.labels(expected[row]).name()},
                                     {"scores", OfEach(of_row)}}
           << "\n";
    }
    if (!file.flush()) {
      return Fail(absl::UnavailableError(absl::StrCat("cannot write ", scores_path)));
    }
  }
  return kept ? 0 : 1;
}

// ---- batches -----------------------------------------------------------------------------------

constexpr int kThreads[] = {1, 2, 3};  // one comes first: texts alone
constexpr size_t kPool = 400;          // texts that batches are made of
constexpr double kLargest = 320;       // texts in a batch; beyond 256 they are decoded in parts

struct Batch {
  int threads;
  std::vector<size_t> texts;  // indices into the pool; a text may come twice
};

// Sizes are as often below 18 as above: few texts and many take different ways (cpu_scorer.cc).
std::vector<Batch> RandomBatches(int count, size_t pool, std::mt19937_64& random) {
  std::vector<Batch> batches;
  for (int i = 0; i < count; ++i) {
    const double size = std::exp(std::uniform_real_distribution(0.0, std::log(kLargest))(random));
    Batch& batch = batches.emplace_back();
    batch.threads = kThreads[random() % std::size(kThreads)];
    batch.texts.resize(static_cast<size_t>(size));
    for (size_t& text : batch.texts) text = random() % pool;
  }
  return batches;
}

int Batches(const std::string& directory, const std::string& path, int count, uint64_t seed) {
  const auto rows = ReadRows(path);
  if (!rows.ok()) return Fail(rows.status());
  std::mt19937_64 random(seed);
  std::vector<size_t> chosen;
  for (size_t i = 0; i < kPool; ++i) chosen.push_back(random() % rows->size());
  std::vector<uint64_t> task_of;
  for (size_t i = 0; i < kPool; ++i) task_of.push_back(random());
  const std::vector<Batch> batches = RandomBatches(count, kPool, random);

  std::vector<double> difference(std::size(kGates));
  std::vector<int64_t> differing(std::size(kGates));
  int64_t compared = 0;
  for (size_t p = 0; p < std::size(kGates); ++p) {
    Scores alone;
    for (const int threads : kThreads) {
      ClassifierOptions options;
      options.threads = threads;
      options.precision = kGates[p].precision;
      const auto classifier = Classifier::Load(directory, options);
      if (!classifier.ok()) return Fail(classifier.status());
      std::vector<Classifier::Input> inputs;
      for (size_t i = 0; i < kPool; ++i) {
        const int tasks = (*classifier)->manifest().tasks_size();
        auto input =
            (*classifier)->Prepare(static_cast<int>(task_of[i] % tasks), (*rows)[chosen[i]].text());
        if (!input.ok()) return Fail(input.status());
        inputs.push_back(*std::move(input));
        if (threads > 1) continue;
        auto answer = (*classifier)->Score({&inputs.back()});
        if (!answer.ok()) return Fail(answer.status());
        alone.push_back(std::move(answer->front()));
      }
      for (const Batch& batch : batches) {
        if (batch.threads != threads) continue;
        std::vector<const Classifier::Input*> call;
        for (const size_t text : batch.texts) call.push_back(&inputs[text]);
        const auto answers = (*classifier)->Score(call);
        if (!answers.ok()) return Fail(answers.status());
        for (size_t i = 0; i < call.size(); ++i) {
          const std::vector<float>& expected = alone[batch.texts[i]];
          const bool same = answers->at(i).size() == expected.size() &&
                            std::memcmp(answers->at(i).data(), expected.data(),
                                        expected.size() * sizeof(float)) == 0;
          differing[p] += !same;
          difference[p] = std::max(difference[p], LargestDifference(expected, answers->at(i)));
          ++compared;
        }
      }
    }
  }
  const bool kept = *std::max_element(differing.begin(), differing.end()) == 0;
  std::cout << nlohmann::ordered_json{{"batches", count},
                                      {"answers_compared", compared},
                                      {"answers_that_differ", OfEach(differing)},
                                      {"largest_difference", OfEach(difference)},
                                      {"kept", kept}}
            << std::endl;
  return kept ? 0 : 1;
}

int Run(const std::vector<std::string>& arguments) {
  const auto flag = [&](const std::string& name, const std::string& otherwise) {
    return arguments.size() == 6 && arguments[4] == name ? arguments[5] : otherwise;
  };
  const bool whole = arguments.size() == 4 || arguments.size() == 6;
  if (whole && arguments[0] == "labels") {
    return Labels(arguments[1], arguments[2], arguments[3], flag("--scores", ""));
  }
  if (whole && arguments[0] == "batches" && std::atoi(arguments[3].c_str()) > 0) {
    return Batches(arguments[1], arguments[2], std::atoi(arguments[3].c_str()),
                   std::strtoull(flag("--seed", "1").c_str(), nullptr, 10));
  }
  std::cerr << "usage: bench-gate labels MODEL TASK ROWS [--scores FILE]\n"
               "       bench-gate batches MODEL ROWS COUNT [--seed N]\n";
  return 2;
}

}  // namespace
}  // namespace tasuki

int main(int count, char** arguments) {
  return tasuki::Run(std::vector<std::string>(arguments + 1, arguments + count));
}
