#include "model/files/durable.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/errors/errors.h"
#include "model/files/sha256.h"
#include "tasuki/internal/files.pb.h"

namespace {

std::vector<std::string> synced;  // paths, in this order

}  // namespace

// In the place of the C library's, for the whole program.
extern "C" int fsync(int fd) {
  synced.push_back(std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(fd)));
  return static_cast<int>(syscall(SYS_fsync, fd));
}

namespace tasuki {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Durable : public ::testing::Test {
 protected:
  Durable() {
    std::string name = ::testing::TempDir() + "durable.XXXXXX";
    dir_ = mkdtemp(name.data());
  }
  ~Durable() override { std::filesystem::remove_all(dir_); }
  std::string At(const std::string& name) const { return dir_ + "/" + name; }

  std::string dir_;
};

TEST(SystemError, TellsAFullDiskFromAMissingFileAndFromTheRest) {
  for (const int error : {ENOSPC, EDQUOT}) {
    const absl::Status full = SystemError(error, "write", "/d/f");
    EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(ReasonOf(full), v1::DISK_FULL);
    EXPECT_THAT(std::string(full.message()), HasSubstr("cannot write /d/f"));
  }
  EXPECT_EQ(SystemError(ENOENT, "open", "/d/f").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(SystemError(EIO, "sync", "/d/f").code(), absl::StatusCode::kUnavailable);
}

TEST_F(Durable, ReadsBackWhatItWrote) {
  const std::string bytes("a\0b\n襷", 7);
  ASSERT_TRUE(WriteFile(At("f"), bytes).ok());
  EXPECT_EQ(ReadFile(At("f")).value(), bytes);
  ASSERT_TRUE(WriteFile(At("f"), "").ok());
  EXPECT_EQ(ReadFile(At("f")).value(), "");
}

TEST_F(Durable, RefusesToReadWhatIsMissingTooLongOrNoFile) {
  EXPECT_EQ(ReadFile(At("f")).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(WriteFile(At("f"), "12345").ok());
  EXPECT_TRUE(ReadFile(At("f"), 5).ok());
  const absl::Status long_file = ReadFile(At("f"), 4).status();
  EXPECT_EQ(long_file.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(long_file), v1::LIMIT_EXCEEDED);
  EXPECT_FALSE(ReadFile(dir_).ok());
  ASSERT_EQ(mkfifo(At("fifo").c_str(), 0600), 0);
  EXPECT_FALSE(ReadFile(At("fifo")).ok());
}

TEST_F(Durable, ReportsADiskThatIsFull) {
  // /dev/full answers every write with ENOSPC.
  const absl::Status status = WriteFile("/dev/full", "x");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), v1::DISK_FULL);
}

TEST_F(Durable, ReplacesAFileAndLeavesNothingBeside) {
  ASSERT_TRUE(WriteFile(At("f"), "old").ok());
  ASSERT_TRUE(ReplaceFile(At("f"), "new").ok());
  EXPECT_EQ(ReadFile(At("f")).value(), "new");
  EXPECT_THAT(ListDirectory(dir_).value(), ElementsAre("f"));
}

TEST_F(Durable, KeepsTheOldFileWhenReplacingFails) {
  ASSERT_TRUE(WriteFile(At("f"), "old").ok());
  // The file beside cannot be made: its name is taken by a link to a full device.
  std::filesystem::create_symlink("/dev/full", At("f.tmp"));
  EXPECT_EQ(ReasonOf(ReplaceFile(At("f"), "new")), v1::DISK_FULL);
  EXPECT_EQ(ReadFile(At("f")).value(), "old");
  EXPECT_THAT(ListDirectory(dir_).value(), ElementsAre("f"));
}

TEST_F(Durable, PublishesADirectoryAsAWhole) {
  ASSERT_TRUE(MakeDirectories(At("aside/inner")).ok());
  ASSERT_TRUE(WriteFile(At("aside/inner/f"), "x").ok());
  ASSERT_TRUE(PublishDirectory(At("aside"), At("final")).ok());
  EXPECT_EQ(ReadFile(At("final/inner/f")).value(), "x");
  EXPECT_THAT(ListDirectory(dir_).value(), ElementsAre("final"));
}

TEST_F(Durable, NeverPublishesOverWhatIsThere) {
  ASSERT_TRUE(MakeDirectories(At("aside")).ok());
  ASSERT_TRUE(MakeDirectories(At("final")).ok());
  EXPECT_EQ(PublishDirectory(At("aside"), At("final")).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(PublishDirectory(At("none"), At("other")).code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(ListDirectory(dir_).value(), ElementsAre("aside", "final"));
}

TEST_F(Durable, ExchangesADirectoryForTheOneInItsPlace) {
  for (const char* bytes : {"first", "second"}) {
    ASSERT_TRUE(MakeDirectories(At("aside")).ok());
    ASSERT_TRUE(WriteFile(At("aside/") + bytes, bytes).ok());
    synced.clear();
    ASSERT_TRUE(ReplaceDirectory(At("aside"), At("final")).ok());
    EXPECT_THAT(ListDirectory(dir_).value(), ElementsAre("final"));
    EXPECT_THAT(ListDirectory(At("final")).value(), ElementsAre(bytes));
    EXPECT_EQ(synced.back(), dir_) << "once the new one is there";
  }
  EXPECT_EQ(ReplaceDirectory(At("none"), At("final")).code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(ListDirectory(At("final")).value(), ElementsAre("second"));
}

TEST_F(Durable, SyncsWhereItMakesDirectories) {
  ASSERT_TRUE(MakeDirectories(At("a")).ok());
  synced.clear();
  ASSERT_TRUE(MakeDirectories(At("a/b/c")).ok());
  for (const std::string& parent : {At("a"), At("a/b")}) EXPECT_THAT(synced, Contains(parent));
  synced.clear();
  ASSERT_TRUE(MakeDirectories(At("a/b/c")).ok());
  EXPECT_THAT(synced, ElementsAre());
}

TEST_F(Durable, AppendsSmallAndLargePiecesInOrder) {
  std::string expected;
  absl::StatusOr<FileWriter> created = FileWriter::Create(At("f"));
  ASSERT_TRUE(created.ok());
  FileWriter writer = *std::move(created);
  for (const size_t size : {10, 70'000, 1, 0, 65'535, 65'536, 3}) {
    const std::string piece(size, static_cast<char>('a' + expected.size() % 26));
    ASSERT_TRUE(writer.Append(piece).ok());
    expected += piece;
  }
  ASSERT_TRUE(writer.Close().ok());
  EXPECT_EQ(ReadFile(At("f")).value(), expected);
}

TEST_F(Durable, ReportsAFullDiskAtTheLatestOnClose) {
  absl::StatusOr<FileWriter> writer = FileWriter::Create("/dev/full");
  ASSERT_TRUE(writer.ok());
  EXPECT_TRUE(writer->Append("small enough to wait in memory").ok());
  EXPECT_EQ(ReasonOf(writer->Close()), v1::DISK_FULL);
}

TEST_F(Durable, RemovesTreesAndWhatIsNotThere) {
  ASSERT_TRUE(MakeDirectories(At("a/b/c")).ok());
  EXPECT_TRUE(MakeDirectories(At("a/b/c")).ok());
  EXPECT_TRUE(RemoveAll(At("a")).ok());
  EXPECT_TRUE(RemoveAll(At("a")).ok());
  EXPECT_EQ(ListDirectory(At("a")).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(Durable, ListsNamesSorted) {
  for (const char* name : {"b", "a", "c"}) ASSERT_TRUE(WriteFile(At(name), "").ok());
  EXPECT_THAT(ListDirectory(dir_).value(), ElementsAre("a", "b", "c"));
}

TEST_F(Durable, KnowsTheFreeBytesOfAVolume) {
  EXPECT_GT(FreeBytes(dir_).value(), 0);
  EXPECT_EQ(FreeBytes(At("none")).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(Durable, WritesAMessageAsJsonWithTheNamesOfItsProto) {
  internal::ModelManifest manifest;
  manifest.set_max_input_tokens(7);
  manifest.add_tasks()->add_labels()->set_target_text("良い");
  ASSERT_TRUE(WriteJson(At("m.json"), manifest).ok());
  EXPECT_THAT(ReadFile(At("m.json")).value(),
              ::testing::AllOf(HasSubstr("\"max_input_tokens\": 7"), HasSubstr("良い")));
  internal::ModelManifest read;
  read.set_format_version(3);
  ASSERT_TRUE(ReadJson(At("m.json"), read).ok());
  EXPECT_EQ(read.SerializeAsString(), manifest.SerializeAsString());
}

TEST_F(Durable, RefusesJsonThatIsNotOfTheMessage) {
  internal::ModelManifest manifest;
  for (const char* json :
       {"", "{", "[]", "{\"unknown\": 1}", "{\"\xff", "{\"format_version\": \"x\"}"}) {
    ASSERT_TRUE(WriteFile(At("m.json"), json).ok());
    const absl::Status status = ReadJson(At("m.json"), manifest);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << json;
    EXPECT_EQ(ReasonOf(status), v1::FILE_CHANGED) << json;
    EXPECT_THAT(std::string(status.message()), HasSubstr("m.json")) << json;
    EXPECT_THAT(std::string(status.message()), ::testing::Not(HasSubstr("\n"))) << json;
  }
  EXPECT_EQ(ReadJson(At("none.json"), manifest).code(), absl::StatusCode::kNotFound);
}

TEST_F(Durable, RefusesANewerFormatWhateverItHolds) {
  internal::ModelManifest manifest;
  for (const char* json : {"{\"format_version\": 7}", "{\"new\": [], \"format_version\": 7}"}) {
    ASSERT_TRUE(WriteFile(At("m.json"), json).ok());
    const absl::Status status = ReadVersionedJson(At("m.json"), 6, manifest);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(ReasonOf(status), v1::FILE_CHANGED);
    EXPECT_THAT(std::string(status.message()), HasSubstr("format version 7; this program reads up "
                                                         "to 6: use a newer one"));
    EXPECT_EQ(manifest.format_version(), 7);
  }
  ASSERT_TRUE(WriteFile(At("m.json"), "{\"format_version\": 7}").ok());
  EXPECT_TRUE(ReadVersionedJson(At("m.json"), 7, manifest).ok());
  for (const char* json : {"{", "{}", "{\"format_version\": 6, \"new\": 1}"}) {
    ASSERT_TRUE(WriteFile(At("m.json"), json).ok());
    EXPECT_EQ(ReasonOf(ReadVersionedJson(At("m.json"), 7, manifest)), v1::FILE_CHANGED) << json;
  }
}

TEST_F(Durable, DescribesFilesAndFindsWhatChanged) {
  ASSERT_TRUE(WriteFile(At("a"), "abc").ok());
  ASSERT_TRUE(WriteFile(At("b"), "").ok());
  const auto files = DescribeFiles(dir_, {"a", "b"});
  ASSERT_TRUE(files.ok());
  ASSERT_EQ(files->size(), 2);
  EXPECT_EQ((*files)[0].name(), "a");
  EXPECT_EQ((*files)[0].size_bytes(), 3);
  EXPECT_EQ((*files)[0].sha256(), Sha256Of("abc"));
  EXPECT_TRUE(CheckFiles(dir_, *files).ok());

  ASSERT_TRUE(WriteFile(At("a"), "abd").ok());
  const absl::Status other_bytes = CheckFiles(dir_, *files);
  EXPECT_EQ(other_bytes.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ReasonOf(other_bytes), v1::FILE_CHANGED);
  EXPECT_THAT(std::string(other_bytes.message()), HasSubstr("SHA-256"));
  ASSERT_TRUE(WriteFile(At("a"), "abcd").ok());
  EXPECT_THAT(std::string(CheckFiles(dir_, *files).message()), HasSubstr("4 bytes instead of 3"));
  ASSERT_TRUE(RemoveAll(At("a")).ok());
  EXPECT_THAT(std::string(CheckFiles(dir_, *files).message()), HasSubstr("missing"));
  EXPECT_EQ(DescribeFiles(dir_, {"a"}).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(Durable, NeverFollowsANameOutOfTheDirectory) {
  for (const char* name : {"../durable", "..", ".", "", "/etc/passwd", "a/../../b", "a//b", "a/"}) {
    v1::ModelFile file;
    file.set_name(name);
    const absl::Status status = CheckFiles(dir_, {file});
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << name;
    EXPECT_THAT(std::string(status.message()), HasSubstr("no file name")) << name;
  }
}

}  // namespace
}  // namespace tasuki
