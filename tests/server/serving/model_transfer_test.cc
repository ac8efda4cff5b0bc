#include "server/serving/model_transfer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <map>

#include "model/errors/errors.h"

namespace tasuki {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;

class ModelTransferTest : public testing::Test {
 protected:
  ModelTransferTest() {
    std::string root = testing::TempDir() + "transfer.XXXXXX";
    data_ = std::make_unique<DataDirectory>(mkdtemp(root.data()));
    EXPECT_TRUE(MakeDirectories(data_->aside()).ok());
  }
  ~ModelTransferTest() override { std::filesystem::remove_all(data_->root()); }

  static v1::ImportModelVersionHeader HeaderOf(const std::map<std::string, std::string>& files) {
    v1::ImportModelVersionHeader header;
    header.set_model("models/m");
    for (const auto& [name, bytes] : files) {
      v1::ModelFile& file = *header.add_files();
      file.set_name(name);
      file.set_size_bytes(static_cast<int64_t>(bytes.size()));
      file.set_sha256(Sha256Of(bytes));
    }
    return header;
  }
  std::vector<std::string> Aside() const { return *ListDirectory(data_->aside()); }

  std::unique_ptr<DataDirectory> data_;
  const std::map<std::string, std::string> files_ = {{"config.json", "{}"},
                                                     {"model.safetensors", std::string(1000, 'w')},
                                                     {"special_tokens_map.json", ""},
                                                     {"spiece.model", "pieces"}};
};

TEST_F(ModelTransferTest, TakesTheFilesInPiecesOfAnySize) {
  for (const size_t size : {size_t{1}, size_t{7}, size_t{5000}}) {
    auto upload = ModelUpload::Begin(HeaderOf(files_), *data_);
    ASSERT_TRUE(upload.ok()) << upload.status();
    std::string bytes;
    for (const auto& [name, content] : files_) bytes += content;
    for (size_t at = 0; at < bytes.size(); at += size) {
      ASSERT_TRUE((*upload)->Append(bytes.substr(at, size)).ok());
    }
    ASSERT_TRUE((*upload)->Finish().ok());
    for (const auto& [name, content] : files_) {
      EXPECT_EQ(*ReadFile((*upload)->directory() + "/" + name), content);
    }
  }
  EXPECT_THAT(Aside(), IsEmpty()) << "what is not published goes with the upload";
}

TEST_F(ModelTransferTest, NamesEveryFaultOfAHeader) {
  auto header = HeaderOf({{"../x", "1"}, {"pytorch_model.bin", "2"}, {"config.json", "3"}});
  *header.add_files() = header.files(1);
  header.mutable_files(1)->set_sha256("ABC");
  header.set_model("models/M");
  header.set_request_id(std::string(129, 'r'));
  const absl::Status status = ModelUpload::Begin(header, *data_).status();
  EXPECT_EQ(ReasonOf(status), v1::FIELD_INVALID);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("header.model"), HasSubstr("header.request_id: has 129 bytes"),
                    HasSubstr("\"../x\" is not a file of a T5"), HasSubstr("\"pytorch_model.bin\""),
                    HasSubstr("safetensors only (python3 -m tasuki.convert"),
                    HasSubstr("config.json is listed twice"), HasSubstr("header.files[1].sha256"),
                    HasSubstr("spiece.model is missing"), HasSubstr("weights")));
  EXPECT_THAT(Aside(), IsEmpty());
}

TEST_F(ModelTransferTest, NamesTheFileThatArrivedChanged) {
  auto upload = ModelUpload::Begin(HeaderOf(files_), *data_);
  ASSERT_TRUE(upload.ok());
  ASSERT_TRUE((*upload)->Append("{}").ok());
  const absl::Status status = (*upload)->Append(std::string(1000, 'x'));
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_EQ(ReasonOf(status), v1::UPLOAD_CORRUPT);
  EXPECT_THAT(status.message(), HasSubstr("model.safetensors arrived with"));
}

TEST_F(ModelTransferTest, RefusesTooFewAndTooManyBytes) {
  auto upload = ModelUpload::Begin(HeaderOf(files_), *data_);
  ASSERT_TRUE(upload.ok());
  ASSERT_TRUE((*upload)->Append("{}www").ok());
  EXPECT_THAT(std::string((*upload)->Finish().message()),
              HasSubstr("byte 3 of 1000 of model.safetensors"));
  EXPECT_EQ(ReasonOf((*upload)->Append(std::string(1000, 'w') + "pieces")), v1::UPLOAD_CORRUPT);

  auto other = ModelUpload::Begin(HeaderOf(files_), *data_);
  ASSERT_TRUE(other.ok());
  EXPECT_EQ(ReasonOf((*other)->Append("{}" + std::string(1000, 'w') + "pieces+")),
            v1::UPLOAD_CORRUPT);
}

TEST_F(ModelTransferTest, RefusesWhatTheDiskCannotHoldBeforeAByteIsSent) {
  auto header = HeaderOf(files_);
  for (auto& file : *header.mutable_files()) file.set_size_bytes(int64_t{1} << 62);
  const absl::Status status = ModelUpload::Begin(header, *data_).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_EQ(ReasonOf(status), v1::DISK_FULL);

  // What would leave the store and the jobs next to nothing.
  header = HeaderOf(files_);
  header.mutable_files(1)->set_size_bytes(*FreeBytes(data_->aside()) - (int64_t{1} << 20));
  EXPECT_EQ(ReasonOf(ModelUpload::Begin(header, *data_).status()), v1::DISK_FULL);
}

TEST_F(ModelTransferTest, DigestTellsOneAnnouncementFromAnother) {
  auto changed = files_;
  changed["config.json"] = "{ }";
  auto with_id = HeaderOf(files_);
  with_id.set_request_id("r");
  const std::string digest = (*ModelUpload::Begin(HeaderOf(files_), *data_))->digest();
  EXPECT_EQ((*ModelUpload::Begin(with_id, *data_))->digest(), digest);
  EXPECT_NE((*ModelUpload::Begin(HeaderOf(changed), *data_))->digest(), digest);
}

TEST_F(ModelTransferTest, ReadsFilesBackInPieces) {
  const std::string large = std::string((2 << 20) + 5, 'z');
  ASSERT_TRUE(WriteFile(data_->aside() + "/model.safetensors", large).ok());
  ASSERT_TRUE(WriteFile(data_->aside() + "/config.json", "{}").ok());
  const auto files = DescribeFiles(data_->aside(), {"config.json", "model.safetensors"});
  ASSERT_TRUE(files.ok());
  std::map<std::string, std::string> got;
  std::string current;
  const auto begin = [&](const v1::ModelFile& file) {
    current = file.name();
    return true;
  };
  const auto bytes = [&](std::string piece) {
    EXPECT_LE(piece.size(), 1 << 20);
    got[current] += piece;
    return true;
  };
  ASSERT_TRUE(ReadModelFiles(data_->aside(), *files, begin, bytes).ok());
  EXPECT_EQ(got["config.json"], "{}");
  EXPECT_TRUE(got["model.safetensors"] == large);

  ASSERT_TRUE(WriteFile(data_->aside() + "/model.safetensors", "short").ok());
  EXPECT_TRUE(absl::IsDataLoss(ReadModelFiles(data_->aside(), *files, begin, bytes)));
  EXPECT_TRUE(absl::IsCancelled(
      ReadModelFiles(data_->aside(), *files, begin, [](std::string) { return false; })));
}

}  // namespace
}  // namespace tasuki
