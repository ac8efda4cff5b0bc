#include "model/t5/scorer.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "model/t5/cpu_scorer.h"
#include "model/t5/torch_scorer.h"

namespace tasuki {

std::unique_ptr<const T5Scorer> T5Scorer::Make(const T5Config& config, const WeightMap& weights,
                                               Precision precision) {
  const at::Device device = weights.at("shared.weight").device();
  if (!device.is_cpu()) {
    return std::make_unique<TorchScorer>(config, weights, precision, MakeGraphMaker(device));
  }
  return std::make_unique<CpuScorer>(config, weights, precision, BestKernels());
}

std::vector<float> LogProbabilities(const LabelTrie& labels,
                                    absl::Span<const std::vector<float>> logits) {
  std::vector<std::vector<double>> scores;  // of each row's children
  for (const std::vector<float>& of_row : logits) {
    std::vector<double>& children = scores.emplace_back(of_row.begin(), of_row.end());
    double largest = -std::numeric_limits<double>::infinity(), sum = 0;
    for (double logit : children) largest = std::max(largest, logit);
    for (double logit : children) sum += std::exp(logit - largest);
    for (double& logit : children) logit -= largest + std::log(sum);
  }
  std::vector<float> result;
  for (int label = 0; label < labels.label_count(); ++label) {
    double score = 0;
    for (const LabelTrie::Step& step : labels.path(label)) score += scores[step.row][step.child];
    result.push_back(static_cast<float>(score));
  }
  return result;
}

}  // namespace tasuki
