#include "model/text/figures.h"

#include <algorithm>
#include <map>

namespace tasuki {
namespace {

struct ClassCounts {
  int64_t gold = 0;
  int64_t predicted = 0;
  int64_t right = 0;
};

double Ratio(double part, double whole) { return whole == 0 ? 0 : part / whole; }

// 2PR / (P + R), written so that it is 0 exactly where scikit-learn has 0.
double F1(const ClassCounts& of) { return Ratio(2.0 * of.right, of.gold + of.predicted); }

// `majority_classes` is the number of classes that a constant answer is averaged over.
void Fill(const std::vector<ClassCounts>& classes, int64_t rows, int64_t majority_classes,
          v1::Evaluation& evaluation) {
  ClassCounts all;
  double f1 = 0, precision = 0, recall = 0;
  for (const ClassCounts& of : classes) {
    f1 += F1(of);
    precision += Ratio(of.right, of.predicted);
    recall += Ratio(of.right, of.gold);
    all.gold += of.gold;
    all.predicted += of.predicted;
    all.right += of.right;
  }
  evaluation.set_row_count(rows);
  evaluation.set_accuracy(Ratio(all.right, rows));
  evaluation.set_macro_f1(f1 / classes.size());
  evaluation.set_macro_precision(precision / classes.size());
  evaluation.set_macro_recall(recall / classes.size());
  evaluation.set_micro_f1(F1(all));
  evaluation.set_micro_precision(Ratio(all.right, all.predicted));
  evaluation.set_micro_recall(Ratio(all.right, all.gold));

  int64_t majority = 0;
  for (const ClassCounts& of : classes) majority = std::max(majority, of.gold);
  evaluation.set_majority_accuracy(Ratio(majority, rows));
  evaluation.set_majority_macro_f1(F1({majority, rows, majority}) / majority_classes);
}

}  // namespace

void FillFigures(absl::Span<const int> gold, absl::Span<const int> predicted, int class_count,
                 v1::Evaluation& evaluation) {
  std::vector<ClassCounts> classes(class_count);
  for (size_t i = 0; i < gold.size(); ++i) {
    ++classes[gold[i]].gold;
    ++classes[predicted[i]].predicted;
    if (gold[i] == predicted[i]) ++classes[gold[i]].right;
  }
  Fill(classes, gold.size(), class_count, evaluation);
}

void FillFigures(absl::Span<const std::string> gold, absl::Span<const std::string> predicted,
                 v1::Evaluation& evaluation) {
  std::map<std::string, ClassCounts> classes;
  for (size_t i = 0; i < gold.size(); ++i) {
    ++classes[gold[i]].gold;
    ++classes[predicted[i]].predicted;
    if (gold[i] == predicted[i]) ++classes[gold[i]].right;
  }
  std::vector<ClassCounts> counts;
  for (const auto& [name, of] : classes) counts.push_back(of);
  // A constant answer brings no string of its own.
  const int64_t gold_classes = std::count_if(counts.begin(), counts.end(),
                                             [](const ClassCounts& of) { return of.gold > 0; });
  Fill(counts, gold.size(), gold_classes, evaluation);
}

}  // namespace tasuki
