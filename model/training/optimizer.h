// AdamW and Adafactor over named weights, and the learning rate over the steps. Includes torch.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "model/t5/weights.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

// Learning rate of the update that follows `steps_done` others, as transformers' schedules have it.
double LearningRate(const v1::Recipe& recipe, int64_t steps_done, int64_t total_steps);

// L2 norm over all gradients; NaN or infinite if one of them is.
double GradientNorm(const WeightMap& weights);

// Whether `recipe` keeps the weight of that name as it is.
bool IsFrozen(const v1::Recipe& recipe, const std::string& weight);

// Forgets the gradients, and on a CPU their memory; on a GPU graphs know where they lie, and they
// are zeros.
void ClearGradients(const WeightMap& weights);

// Changes weights in place from their gradients. Thread-compatible; the weights are shared with the
// model. A weight without a gradient stays as it is.
class Optimizer {
 public:
  // The one that `recipe` names, with empty state; frozen weights have none.
  static std::unique_ptr<Optimizer> Create(const v1::Recipe& recipe, const WeightMap& weights);
  virtual ~Optimizer() = default;

  struct Update {
    int64_t step = 1;  // 1 for the first
    double learning_rate = 0;
    double gradient_scale = 1;  // what every gradient is multiplied by first (clipping)
  };
  // Gradients may be overwritten.
  virtual void Step(const Update& update) = 0;

  // What a resumed training needs beside weights and step: "WEIGHT.exp_avg" and the like. The
  // tensors are the optimizer's own; copying into them restores it.
  const WeightMap& state() const { return state_; }

 protected:
  Optimizer(const v1::Recipe& recipe, const WeightMap& weights);

  const WeightMap weights_;  // shares the tensors; without frozen ones
  const double weight_decay_;
  WeightMap state_;
};

}  // namespace tasuki
