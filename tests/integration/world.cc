#include "tests/integration/world.h"

#include <gtest/gtest.h>

#include <memory>

namespace tasuki {
namespace {

std::unique_ptr<World> world;

class RemoveWorld : public testing::Environment {
 public:
  void TearDown() override { world.reset(); }
};
[[maybe_unused]] const auto* const registered =
    testing::AddGlobalTestEnvironment(new RemoveWorld);  // owned by GoogleTest

const char* const kThings[] = {"カメラ", "椅子", "本", "鞄", "時計", "靴", "傘", "机"};

std::string CounterfactualRows() {
  std::string rows;
  for (const std::string thing : kThings) {
    for (int price = 1; price <= 4; ++price) {
      const std::string what = std::to_string(price) + "000円の" + thing;
      rows += what + "がもっと軽ければ買ったのに。\t1\n";
      rows += what + "は軽いので買いました。\t0\n";
    }
  }
  return rows;
}

std::string SentimentRows() {
  std::string rows;
  for (const std::string thing : kThings) {
    for (int day = 1; day <= 3; ++day) {
      const std::string what = std::to_string(day) + "日前に届いた" + thing + "は";
      rows += what + "最高です。\tpositive\n";
      rows += what + "普通です。\tneutral\n";
      rows += what + "壊れていました。\tnegative\n";
    }
  }
  return rows;
}

v1::TrainingJob PretrainingJob(const World& world) {
  v1::TrainingJob job;
  job.set_model("models/base");
  auto& work = *job.mutable_pretraining();
  work.add_datasets(world.counterfactual);
  work.add_datasets(world.sentiment);
  work.set_vocabulary_size(300);
  for (const char* text : {"はい", "いいえ", "positive", "neutral", "negative", ": _"}) {
    work.add_required_texts(text);
  }
  auto& size = *work.mutable_size();
  size.set_d_model(32);
  size.set_d_kv(16);
  size.set_d_ff(64);
  size.set_num_heads(2);
  size.set_num_layers(1);
  size.set_num_decoder_layers(1);
  work.mutable_recipe()->set_steps(8);
  work.mutable_recipe()->set_batch_size(8);
  work.mutable_recipe()->set_max_input_tokens(32);
  return job;
}

v1::TrainingJob MultiTaskJob(const World& world) {
  v1::TrainingJob job;
  job.set_model("models/reviews");
  auto& work = *job.mutable_fine_tuning();
  work.set_base_model_version("models/base");
  *work.add_tasks() = CounterfactualTask(world.counterfactual);
  *work.add_tasks() = SentimentTask(world.sentiment);
  work.mutable_recipe()->set_steps(12);
  work.mutable_recipe()->set_evaluate_every_steps(6);
  work.mutable_recipe()->set_max_input_tokens(64);
  return job;
}

}  // namespace

const World& TheWorld() {
  if (world != nullptr) return *world;
  auto made = std::make_unique<World>();
  made->data_dir = made->directory.path() + "/data";
  Tasukid tasukid(made->data_dir);
  made->counterfactual = tasukid.UploadRows("counterfactual", CounterfactualRows());
  made->sentiment = tasukid.UploadRows("sentiment", SentimentRows());
  made->pretraining = tasukid.AwaitEnd(tasukid.Submit(PretrainingJob(*made)));
  EXPECT_EQ(made->pretraining.model_version(), kBase) << made->pretraining.DebugString();
  made->multi_task = tasukid.AwaitEnd(tasukid.Submit(MultiTaskJob(*made)));
  EXPECT_EQ(made->multi_task.model_version(), kReviews) << made->multi_task.DebugString();
  world = std::move(made);
  return *world;
}

v1::Task CounterfactualTask(const std::string& dataset) {
  v1::Task task;
  task.set_name("counterfactual");
  for (const auto& [name, text, value] :
       {std::tuple("factual", "いいえ", "0"), std::tuple("counterfactual", "はい", "1")}) {
    auto& label = *task.add_labels();
    label.set_name(name);
    label.set_target_text(text);
    label.add_values(value);
  }
  task.set_train_dataset(dataset);
  task.set_valid_dataset(dataset);
  return task;
}

v1::Task SentimentTask(const std::string& dataset) {
  v1::Task task;
  task.set_name("sentiment");
  for (const char* name : {"negative", "neutral", "positive"}) task.add_labels()->set_name(name);
  task.set_train_dataset(dataset);
  task.set_valid_dataset(dataset);
  return task;
}

v1::TrainingJob LongJob(const std::string& model) {
  v1::TrainingJob job;
  job.set_model(model);
  auto& work = *job.mutable_fine_tuning();
  work.set_base_model_version(kBase);
  *work.add_tasks() = SentimentTask(TheWorld().sentiment);
  auto& recipe = *work.mutable_recipe();
  recipe.set_steps(400);
  recipe.set_checkpoint_every_steps(20);
  recipe.set_evaluate_every_steps(100);
  recipe.set_max_input_tokens(64);
  return job;
}

}  // namespace tasuki
