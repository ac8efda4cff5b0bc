#include "server/serving/version_load.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "server/serving/publication.h"
#include "server/store/store.h"
#include "tests/testing/tiny_model.h"

namespace tasuki {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::Key;

constexpr char kBase[] = "models/base/versions/1";

int64_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  int64_t size = 0, resident = 0;
  file >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

class VersionLoaderTest : public testing::Test {
 protected:
  VersionLoaderTest() {
    std::string root = testing::TempDir() + "loads.XXXXXX";
    data_ = std::make_unique<DataDirectory>(mkdtemp(root.data()));
    EXPECT_TRUE(MakeDirectories(data_->aside()).ok());
    store_ = *Store::Open(data_->database(), metrics_);
    loader_ = std::make_unique<VersionLoader>(store_->models(), *data_, ClassifierOptions(), 1000,
                                              metrics_);
  }
  ~VersionLoaderTest() override {
    store_.reset();
    fs::remove_all(data_->root());
  }

  v1::ModelVersion Publish(const std::string& model, const std::string& directory) {
    const auto version = PublishVersion(store_->models(), *data_, "",
                                        {.model = model, .directory = directory, .key = directory});
    EXPECT_TRUE(version.ok()) << version.status();
    return *version;
  }
  // kBase, with a task.
  v1::ModelVersion PublishBase(v1::ModelSize::Preset size = v1::ModelSize::TINY) {
    const std::string directory = data_->aside() + "/base";
    const absl::Status status = WriteTinyModel(directory, {TinyTask("mood")}, size);
    EXPECT_TRUE(status.ok()) << status;
    return Publish("models/base", directory);
  }
  v1::ModelVersion PublishAdapter(int64_t seed) {
    const std::string directory = absl::StrCat(data_->aside(), "/adapter-", seed);
    const absl::Status status =
        WriteTinyAdapter(directory, kBase, data_->model_version(kBase), seed);
    EXPECT_TRUE(status.ok()) << status;
    return Publish("models/m", directory);
  }
  std::unique_ptr<LoadedModel> Load(const v1::ModelVersion& version) {
    auto loaded = loader_->Load(version);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return loaded.ok() ? *std::move(loaded) : nullptr;
  }
  static std::vector<float> Scores(const Classifier& classifier) {
    std::vector<float> scores;
    for (const char* text : {"the room was good", "bad", "the number 7 was the room"}) {
      const auto input = classifier.Prepare(0, text);
      const auto of_text = classifier.Score({&*input});
      EXPECT_TRUE(of_text.ok()) << of_text.status();
      scores.insert(scores.end(), of_text->at(0).begin(), of_text->at(0).end());
    }
    return scores;
  }
  static double Difference(const std::vector<float>& a, const std::vector<float>& b) {
    double largest = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      largest = std::max<double>(largest, std::abs(a[i] - b[i]));
    }
    return largest;
  }

  Metrics metrics_;
  std::unique_ptr<DataDirectory> data_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<VersionLoader> loader_;
};

TEST_F(VersionLoaderTest, FourAdaptersHoldTheirBaseOnceAndAnswerAsTheirMergedWeights) {
  const v1::ModelVersion base_version = PublishBase(v1::ModelSize::MINI);
  std::vector<v1::ModelVersion> versions;
  for (int64_t seed = 1; seed <= 4; ++seed) versions.push_back(PublishAdapter(seed));
  Scores(*Load(versions[0])->classifier);  // what is allocated once is there
  EXPECT_THAT(loader_->WeightsInMemory(), IsEmpty());

  malloc_trim(0);
  const int64_t before = ResidentBytes();
  const auto served = Load(base_version);
  Scores(*served->classifier);
  const int64_t alone = ResidentBytes() - before;
  std::vector<std::unique_ptr<LoadedModel>> models;
  for (const v1::ModelVersion& version : versions) models.push_back(Load(version));
  std::vector<std::vector<float>> scores;
  for (const auto& model : models) scores.push_back(Scores(*model->classifier));
  const int64_t resident = ResidentBytes() - before;

  EXPECT_THAT(loader_->WeightsInMemory(), ElementsAre(Key(kBase)));
  const int64_t base = loader_->WeightsInMemory()[kBase];
  int64_t adapters = 0, files = 0;
  for (size_t i = 0; i < models.size(); ++i) {
    EXPECT_EQ(models[i]->shared_base_model_version, kBase);
    adapters += models[i]->classifier->memory_bytes();
    for (const v1::ModelFile& file : versions[i].files()) {
      if (file.name() == "adapter/adapter_model.safetensors") files += file.size_bytes();
    }
  }
  std::cout << "base " << base << " bytes, four adapters " << adapters << " (" << files
            << " in files); resident " << alone << " for the base, " << resident
            << " for all: " << static_cast<double>(resident) / static_cast<double>(alone + files)
            << " of base and files" << std::endl;
  EXPECT_LE(base + adapters, 1.1 * static_cast<double>(base + files));
  EXPECT_LE(resident, 1.1 * static_cast<double>(alone + files));

  for (size_t i = 0; i < models.size(); ++i) {
    const auto merged =
        Classifier::Load(data_->model_version(versions[i].name()), ClassifierOptions());
    ASSERT_TRUE(merged.ok()) << merged.status();
    EXPECT_LE(Difference(scores[i], Scores(**merged)), 1e-4);
    EXPECT_GT(Difference(scores[i], scores[(i + 1) % models.size()]), .01) << "they differ";
  }
}

TEST_F(VersionLoaderTest, ABaseStaysAsLongAsItOrAnAdapterOfItIsLoaded) {
  const v1::ModelVersion base = PublishBase(), version = PublishAdapter(1);
  auto adapter = Load(version);
  auto served = Load(base);
  EXPECT_EQ(served->shared_base_model_version, "");
  EXPECT_THAT(loader_->WeightsInMemory(), ElementsAre(Key(kBase)));
  EXPECT_EQ(loader_->WeightsInMemory()[kBase], served->classifier->memory_bytes());
  EXPECT_GT(Difference(Scores(*adapter->classifier), Scores(*served->classifier)), .01);
  adapter.reset();
  EXPECT_THAT(loader_->WeightsInMemory(), ElementsAre(Key(kBase)));
  adapter = Load(version);
  served.reset();
  EXPECT_THAT(loader_->WeightsInMemory(), ElementsAre(Key(kBase)));
  adapter.reset();
  EXPECT_THAT(loader_->WeightsInMemory(), IsEmpty());
}

TEST_F(VersionLoaderTest, WithoutItsBaseAVersionAnswersByItsOwnWeights) {
  PublishBase();
  const v1::ModelVersion version = PublishAdapter(1);
  const std::vector<float> shared = Scores(*Load(version)->classifier);
  // A base of which a file changed is as good as none.
  const std::string config = data_->model_version(kBase) + "/config.json";
  const std::string original = *ReadFile(config);
  ASSERT_TRUE(WriteFile(config, original + " ").ok());
  EXPECT_EQ(Load(version)->shared_base_model_version, "");
  ASSERT_TRUE(WriteFile(config, original).ok());
  EXPECT_EQ(Load(version)->shared_base_model_version, kBase);

  ASSERT_TRUE(store_->models().DeleteVersion(kBase).ok());
  ASSERT_TRUE(RemoveAll(data_->model_version(kBase)).ok());
  const auto model = Load(version);
  EXPECT_EQ(model->shared_base_model_version, "");
  EXPECT_THAT(loader_->WeightsInMemory(), ElementsAre(Key(version.name())));
  EXPECT_LE(Difference(Scores(*model->classifier), shared), 1e-4);
}

TEST_F(VersionLoaderTest, WhatIsOpenedIsCheckedAndNothingElse) {
  PublishBase();
  const v1::ModelVersion version = PublishAdapter(1);
  const std::string directory = data_->model_version(version.name());
  ASSERT_TRUE(RemoveAll(directory + "/model.safetensors").ok());
  EXPECT_EQ(Load(version)->shared_base_model_version, kBase);
  const std::string adapter = directory + "/adapter/adapter_model.safetensors";
  std::string bytes = *ReadFile(adapter);
  bytes.back() ^= 1;
  ASSERT_TRUE(WriteFile(adapter, bytes).ok());
  EXPECT_EQ(ReasonOf(loader_->Load(version).status()), v1::FILE_CHANGED);
}

}  // namespace
}  // namespace tasuki
