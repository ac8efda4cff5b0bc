// The data directory that the integration tests share: two small tasks, a tiny pre-trained model,
// and a model fine-tuned on both tasks. Made once by the real binaries, by the first test that
// asks.
#pragma once

#include <string>

#include "tasuki/v1/training.pb.h"
#include "tests/integration/tasukid.h"

namespace tasuki {

struct World {
  TemporaryDirectory directory;
  std::string data_dir;
  std::string counterfactual;   // dataset of labels 0 and 1
  std::string sentiment;        // dataset of labels negative, neutral and positive
  v1::TrainingJob pretraining;  // as it ended: models/base/versions/1
  v1::TrainingJob multi_task;   // as it ended: models/reviews/versions/1
};

// Removed at the end of the program.
const World& TheWorld();

inline constexpr char kBase[] = "models/base/versions/1";
inline constexpr char kReviews[] = "models/reviews/versions/1";

v1::Task CounterfactualTask(const std::string& dataset);
v1::Task SentimentTask(const std::string& dataset);
// Fine-tuning of the base on the sentiment task, published under `model`: long enough to be killed
// in between, with a checkpoint every 20 of 400 steps.
v1::TrainingJob LongJob(const std::string& model);

}  // namespace tasuki
