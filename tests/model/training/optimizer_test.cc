#include "model/training/optimizer.h"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tasuki {
namespace {

using ::testing::DoubleNear;
using ::testing::Pointwise;

// A matrix and a norm with made-up gradients, the same that the reference saw.
struct Weights {
  WeightMap map;
  Weights() {
    std::vector<float> matrix;
    for (int i = 0; i < 3; ++i) {
      for (int j = 0; j < 4; ++j) matrix.push_back(0.1 * (i + 1) - 0.05 * j);
    }
    map["wi.weight"] = at::tensor(matrix).reshape({3, 4}).requires_grad_();
    map["layer_norm.weight"] = at::tensor({1.0f, 0.5f, -0.25f}).requires_grad_();
  }
  void SetGradients(int step, double factor = 1) {
    std::vector<float> matrix, norm;
    for (int i = 0; i < 12; ++i) matrix.push_back(factor * (i * step % 7 - 3) * 0.1);
    for (int i = 0; i < 3; ++i) norm.push_back(factor * ((i + 1) * step % 5 - 2) * 0.1);
    map["wi.weight"].mutable_grad() = at::tensor(matrix).reshape({3, 4});
    map["layer_norm.weight"].mutable_grad() = at::tensor(norm);
  }
  std::vector<float> Values(const std::string& name) {
    const at::Tensor values = map[name].detach().reshape({-1});
    return {values.data_ptr<float>(), values.data_ptr<float>() + values.numel()};
  }
};

v1::Recipe RecipeOf(v1::Recipe::Optimizer optimizer, double weight_decay) {
  v1::Recipe recipe;
  recipe.set_optimizer(optimizer);
  recipe.set_weight_decay(weight_decay);
  return recipe;
}

TEST(Optimizer, LeavesFrozenWeightsAndKeepsNothingOfThem) {
  for (const auto kind : {v1::Recipe::ADAMW, v1::Recipe::ADAFACTOR}) {
    v1::Recipe recipe = RecipeOf(kind, 0.5);
    recipe.set_freeze_encoder(true);
    recipe.set_freeze_embeddings(true);
    WeightMap map;
    for (const char* name : {"shared.weight", "encoder.wi.weight", "decoder.wi.weight"}) {
      map[name] = at::ones({2, 2});
      map[name].mutable_grad() = at::ones({2, 2});
    }
    auto optimizer = Optimizer::Create(recipe, map);
    optimizer->Step({.step = 1, .learning_rate = 0.1});
    EXPECT_TRUE(at::equal(map["shared.weight"], at::ones({2, 2})));
    EXPECT_TRUE(at::equal(map["encoder.wi.weight"], at::ones({2, 2})));
    EXPECT_FALSE(at::equal(map["decoder.wi.weight"], at::ones({2, 2})));
    for (const auto& [name, tensor] : optimizer->state()) EXPECT_EQ(name.rfind("decoder.", 0), 0);
  }
}

// Three steps at 1e-2; transformers 4.57.3 (Adafactor) and torch 2.11.0 (AdamW) gave the numbers.
TEST(Adafactor, TakesTheStepsOfTransformers) {
  Weights weights;
  auto optimizer = Optimizer::Create(RecipeOf(v1::Recipe::ADAFACTOR, 0), weights.map);
  for (int step = 1; step <= 3; ++step) {
    weights.SetGradients(step);
    optimizer->Step({.step = step, .learning_rate = 1e-2});
  }
  EXPECT_THAT(weights.Values("wi.weight"),
              Pointwise(DoubleNear(1e-6),
                        {0.10637881, 0.05304314, -0.00204586, -0.05129422, 0.19942589, 0.15023641,
                         0.09580272, 0.05572860, 0.30316120, 0.24681056, 0.19806254, 0.14873059}));
  EXPECT_THAT(weights.Values("layer_norm.weight"),
              Pointwise(DoubleNear(1e-6), {0.99944252, 0.49562445, -0.25775859}));
}

TEST(AdamW, TakesTheStepsOfTorchWithoutDecayOfNorms) {
  Weights weights;
  auto optimizer = Optimizer::Create(RecipeOf(v1::Recipe::ADAMW, 0.1), weights.map);
  for (int step = 1; step <= 3; ++step) {
    weights.SetGradients(step);
    optimizer->Step({.step = step, .learning_rate = 1e-2});
  }
  EXPECT_THAT(weights.Values("wi.weight"),
              Pointwise(DoubleNear(1e-6),
                        {0.12967031, 0.07634842, 0.00350178, -0.06071981, 0.19092658, 0.13373525,
                         0.07109027, 0.07982016, 0.32559919, 0.25275254, 0.18853095, 0.14107645}));
  EXPECT_THAT(weights.Values("layer_norm.weight"),
              Pointwise(DoubleNear(1e-6), {1.01584196, 0.49027222, -0.26445609}));
}

TEST(Optimizer, ScalesGradientsBeforeItUsesThem) {
  for (const auto kind : {v1::Recipe::ADAMW, v1::Recipe::ADAFACTOR}) {
    Weights plain, scaled;
    auto plain_optimizer = Optimizer::Create(RecipeOf(kind, 0), plain.map);
    auto scaled_optimizer = Optimizer::Create(RecipeOf(kind, 0), scaled.map);
    // Two steps: a factor that is the same in all steps cancels out.
    for (int step = 1; step <= 2; ++step) {
      plain.SetGradients(step);
      scaled.SetGradients(step, /*factor=*/step * 4);
      plain_optimizer->Step({.step = step, .learning_rate = 1e-2});
      scaled_optimizer->Step(
          {.step = step, .learning_rate = 1e-2, .gradient_scale = 1.0 / (step * 4)});
    }
    EXPECT_THAT(scaled.Values("wi.weight"), Pointwise(DoubleNear(1e-7), plain.Values("wi.weight")));
  }
}

TEST(GradientNorm, IsOverAllWeightsTogether) {
  Weights weights;
  weights.SetGradients(1);
  double squares = 0;
  for (int i = 0; i < 12; ++i) squares += std::pow((i % 7 - 3) * 0.1, 2);
  for (int i = 0; i < 3; ++i) squares += std::pow(((i + 1) % 5 - 2) * 0.1, 2);
  EXPECT_NEAR(GradientNorm(weights.map), std::sqrt(squares), 1e-6);

  weights.map["wi.weight"].mutable_grad()[1][2] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(std::isfinite(GradientNorm(weights.map)));
}

struct Rate {
  v1::Recipe::Schedule schedule;
  int64_t warmup;
  int64_t steps_done;
  double expected;
};

TEST(LearningRate, FollowsItsSchedule) {
  const Rate rates[] = {
      {v1::Recipe::CONSTANT, 0, 0, 0.5},       {v1::Recipe::CONSTANT, 0, 99, 0.5},
      {v1::Recipe::CONSTANT, 10, 0, 0},        {v1::Recipe::CONSTANT, 10, 5, 0.25},
      {v1::Recipe::CONSTANT, 10, 10, 0.5},     {v1::Recipe::LINEAR, 0, 0, 0.5},
      {v1::Recipe::LINEAR, 0, 50, 0.25},       {v1::Recipe::LINEAR, 20, 60, 0.25},
      {v1::Recipe::LINEAR, 0, 100, 0},         {v1::Recipe::COSINE, 0, 50, 0.25},
      {v1::Recipe::COSINE, 0, 25, 0.42677670}, {v1::Recipe::INVERSE_SQRT, 0, 1, 0.5},
      {v1::Recipe::INVERSE_SQRT, 0, 4, 0.25},  {v1::Recipe::INVERSE_SQRT, 4, 16, 0.25},
      {v1::Recipe::INVERSE_SQRT, 4, 2, 0.25},
  };
  for (const Rate& rate : rates) {
    v1::Recipe recipe;
    recipe.set_learning_rate(0.5);
    recipe.set_schedule(rate.schedule);
    recipe.set_warmup_steps(rate.warmup);
    EXPECT_NEAR(LearningRate(recipe, rate.steps_done, 100), rate.expected, 1e-7)
        << v1::Recipe::Schedule_Name(rate.schedule) << " warm-up " << rate.warmup << " after "
        << rate.steps_done;
  }
}

}  // namespace
}  // namespace tasuki
