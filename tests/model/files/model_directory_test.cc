#include "model/files/model_directory.h"

#include <filesystem>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"

namespace tasuki {
namespace {

using ::testing::HasSubstr;

class ModelDirectory : public ::testing::Test {
 protected:
  ModelDirectory() {
    std::string name = ::testing::TempDir() + "model_directory.XXXXXX";
    dir_ = mkdtemp(name.data());
  }
  ~ModelDirectory() override { std::filesystem::remove_all(dir_); }
  std::string At(const std::string& name) const { return dir_ + "/" + name; }

  std::string dir_;
};

TEST(IsModelFileName, TakesTheNamesOfAHuggingFaceDirectoryOnly) {
  for (const char* good : {"config.json", "model.safetensors", "spiece.model", "tasuki.json",
                           "model.safetensors.index.json", "model-00001-of-00002.safetensors"}) {
    EXPECT_TRUE(IsModelFileName(good)) << good;
  }
  for (const char* bad :
       {"", ".", "..", "../config.json", "config.json/", "/config.json", "CONFIG.JSON",
        "pytorch_model.bin", "model-1-of-2.safetensors", "model-00001-of-00002.safetensors.bin",
        "model-00001-of-0000x.safetensors", "model-00001"}) {
    EXPECT_FALSE(IsModelFileName(bad)) << bad;
  }
  EXPECT_FALSE(IsModelFileName(absl::string_view("config.json\0", 12)));
}

TEST_F(ModelDirectory, WritesAManifestOfEveryOtherFile) {
  ASSERT_TRUE(WriteFile(At("config.json"), "{}").ok());
  ASSERT_TRUE(WriteFile(At("model.safetensors"), "weights").ok());
  internal::ModelManifest manifest;
  manifest.set_max_input_tokens(512);
  manifest.add_tasks()->set_name("sentiment");
  ASSERT_TRUE(WriteManifest(dir_, manifest).ok());
  // A second time: tasuki.json is there already and is not in its own list.
  ASSERT_TRUE(WriteManifest(dir_, manifest).ok());

  const absl::StatusOr<internal::ModelManifest> read = ReadManifest(dir_);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->format_version(), kManifestVersion);
  EXPECT_EQ(read->max_input_tokens(), 512);
  EXPECT_EQ(read->tasks(0).name(), "sentiment");
  EXPECT_GT(read->create_time().seconds(), 1'700'000'000);
  ASSERT_EQ(read->files_size(), 2);
  EXPECT_EQ(read->files(0).name(), "config.json");
  EXPECT_TRUE(CheckFiles(dir_, {read->files().begin(), read->files().end()}).ok());
}

TEST_F(ModelDirectory, ListsTheFilesOfAnAdapterToo) {
  ASSERT_TRUE(WriteFile(At("config.json"), "{}").ok());
  ASSERT_TRUE(MakeDirectories(At("adapter")).ok());
  EXPECT_TRUE(absl::IsNotFound(WriteManifest(dir_, {})));  // half an adapter
  for (const char* name : {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}) {
    ASSERT_TRUE(WriteFile(At(name), name).ok());
    EXPECT_TRUE(IsAdapterFile(name));
    EXPECT_FALSE(IsModelFileName(name)) << "it would be imported";
  }
  EXPECT_FALSE(IsAdapterFile("adapter_config.json"));
  ASSERT_TRUE(WriteManifest(dir_, {}).ok());
  const absl::StatusOr<internal::ModelManifest> read = ReadManifest(dir_);
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->files_size(), 3);
  EXPECT_EQ(read->files(2).name(), "adapter/adapter_model.safetensors");
  const std::vector<v1::ModelFile> files(read->files().begin(), read->files().end());
  EXPECT_TRUE(CheckFiles(dir_, files).ok());
  ASSERT_TRUE(WriteFile(At(files[2].name()), "other").ok());
  EXPECT_THAT(std::string(CheckFiles(dir_, files).message()),
              HasSubstr("adapter/adapter_model.safetensors has 5 bytes instead of 33"));
}

TEST_F(ModelDirectory, NamesBothVersionsOfANewerFormat) {
  ASSERT_TRUE(WriteFile(At(kManifestName), R"({"format_version": 4, "of_the_future": [1]})").ok());
  const absl::Status status = ReadManifest(dir_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ReasonOf(status), v1::FILE_CHANGED);
  EXPECT_THAT(std::string(status.message()), HasSubstr("format version 4"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("reads up to 3"));
}

TEST_F(ModelDirectory, ReadsAManifestOfVersionOneAsNotCalibrated) {
  ASSERT_TRUE(WriteFile(At(kManifestName), R"({"format_version": 1, "max_input_tokens": 9})").ok());
  const auto manifest = ReadManifest(dir_);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->max_input_tokens(), 9);
  EXPECT_EQ(manifest->calibrations_size(), 0);
}

TEST_F(ModelDirectory, RefusesAManifestThatIsMissingMalformedOrWithoutVersion) {
  EXPECT_EQ(ReadManifest(dir_).status().code(), absl::StatusCode::kNotFound);
  for (const char* json : {"", "no json", "{\"format_version\": 1, \"unknown\": 2}", "{}"}) {
    ASSERT_TRUE(WriteFile(At(kManifestName), json).ok());
    EXPECT_EQ(ReadManifest(dir_).status().code(), absl::StatusCode::kDataLoss) << json;
    EXPECT_EQ(ReasonOf(ReadManifest(dir_).status()), v1::FILE_CHANGED) << json;
  }
}

}  // namespace
}  // namespace tasuki
