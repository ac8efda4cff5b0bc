#include "model/files/safetensors.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"

namespace tasuki {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class Safetensors : public ::testing::Test {
 protected:
  Safetensors() {
    std::string name = ::testing::TempDir() + "safetensors.XXXXXX";
    dir_ = mkdtemp(name.data());
    path_ = dir_ + "/model.safetensors";
  }
  ~Safetensors() override { std::filesystem::remove_all(dir_); }

  absl::Status OpenStatus(const std::string& bytes) {
    EXPECT_TRUE(WriteFile(path_, bytes).ok());
    return SafetensorsFile::Open(path_).status();
  }

  std::string dir_, path_;
};

std::string LengthOf(uint64_t value) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(value >> (8 * i)));
  return bytes;
}

std::string FileOf(const std::string& header, size_t data_bytes = 0) {
  return LengthOf(header.size()) + header + std::string(data_bytes, '\1');
}

// One tensor "w" of the given JSON values.
std::string Tensor(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return absl::StrCat("{\"w\":{\"dtype\":", dtype, ",\"shape\":", shape,
                      ",\"data_offsets\":", offsets, "}}");
}

// Two tensors of U8 with the given ranges.
std::string TwoTensors(int begin1, int end1, int begin2, int end2) {
  const auto tensor = [](const char* name, int begin, int end) {
    return absl::StrCat("\"", name, "\":{\"dtype\":\"U8\",\"shape\":[", end - begin,
                        "],\"data_offsets\":[", begin, ",", end, "]}");
  };
  return absl::StrCat("{", tensor("a", begin1, end1), ",", tensor("b", begin2, end2), "}");
}

TEST_F(Safetensors, ReadsBackWhatItWrote) {
  const float weights[] = {1.5f, -2, 0};
  const uint8_t flag = 7;
  const std::map<std::string, TensorEntry> tensors = {
      {"b.weight", {"F32", {3, 1}, reinterpret_cast<const uint8_t*>(weights), sizeof weights}},
      {"a.flag", {"U8", {}, &flag, 1}},
      {"c.none", {"BF16", {0, 4}, nullptr, 0}}};
  ASSERT_TRUE(WriteSafetensors(path_, tensors, {{"format", "pt"}}).ok());

  const auto file = SafetensorsFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT((*file)->metadata(),
              ElementsAre(std::pair<const std::string, std::string>("format", "pt")));
  const auto& read = (*file)->tensors();
  ASSERT_EQ(read.size(), 3);
  EXPECT_EQ(read.at("b.weight").dtype, "F32");
  EXPECT_THAT(read.at("b.weight").shape, ElementsAre(3, 1));
  ASSERT_EQ(read.at("b.weight").size_bytes, sizeof weights);
  EXPECT_EQ(memcmp(read.at("b.weight").data, weights, sizeof weights), 0);
  EXPECT_THAT(read.at("a.flag").shape, IsEmpty());
  EXPECT_EQ(*read.at("a.flag").data, 7);
  EXPECT_EQ(read.at("c.none").size_bytes, 0);
}

TEST_F(Safetensors, WritesTensorsInTheOrderOfTheirNamesFromAnAlignedByteOn) {
  const uint8_t bytes[] = {1, 2, 3};
  ASSERT_TRUE(
      WriteSafetensors(path_, {{"z", {"U8", {1}, bytes, 1}}, {"a", {"U8", {2}, bytes + 1, 2}}}, {})
          .ok());
  const std::string file = ReadFile(path_).value();
  const size_t header_bytes = static_cast<unsigned char>(file[0]);
  EXPECT_EQ(header_bytes % 8, 0);
  const auto header = nlohmann::json::parse(file.substr(8, header_bytes));
  EXPECT_EQ(header["a"]["data_offsets"], (nlohmann::json{0, 2}));
  EXPECT_EQ(header["z"]["data_offsets"], (nlohmann::json{2, 3}));
  EXPECT_EQ(file.substr(8 + header_bytes), std::string("\2\3\1"));
}

TEST_F(Safetensors, ReadsAFileWithoutTensors) {
  ASSERT_TRUE(WriteSafetensors(path_, {}, {}).ok());
  const auto file = SafetensorsFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT((*file)->tensors(), IsEmpty());
}

TEST_F(Safetensors, ReportsAFullDisk) {
  EXPECT_EQ(ReasonOf(WriteSafetensors("/dev/full", {}, {})), v1::DISK_FULL);
}

TEST_F(Safetensors, NamesAFileThatIsMissing) {
  const absl::Status status = SafetensorsFile::Open(path_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr(path_));
}

TEST_F(Safetensors, TakesHeadersThatTheFormatAllows) {
  for (const std::string& file : {
           FileOf("{}"),
           FileOf("{}      "),
           FileOf(TwoTensors(0, 2, 2, 3), 3),
           FileOf(TwoTensors(2, 3, 0, 2), 3),
           FileOf(TwoTensors(0, 0, 0, 3), 3),
           FileOf(Tensor("\"F32\"", "[]", "[0,4]"), 4),
           FileOf(Tensor("\"I64\"", "[0,9223372036854775807]", "[0,0]")),
           FileOf("{\"__metadata__\":{}}"),
       }) {
    EXPECT_TRUE(OpenStatus(file).ok()) << file << ": " << OpenStatus(file);
  }
}

TEST_F(Safetensors, RefusesEachMalformedFileWithItsCause) {
  const std::string u8 = "\"U8\"";
  const std::string entry = "{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}";
  const struct {
    std::string file;
    const char* cause;
  } kCases[] = {
      // Lengths.
      {"", "shorter than the 8 bytes"},
      {"1234567", "shorter than the 8 bytes"},
      {LengthOf(0), "does not begin with {"},
      {LengthOf(~uint64_t{0}) + "{}", "18446744073709551615; the limit is 100000000"},
      {LengthOf(100'000'001) + "{}", "100000001; the limit is 100000000"},
      {LengthOf(3) + "{}", "only 2 bytes follow"},
      // Not the JSON of a header.
      {FileOf(" {}"), "does not begin with {"},
      {FileOf("[]"), "does not begin with {"},
      {FileOf("PK\3\4"), "does not begin with {"},
      {FileOf("{"), "no JSON at its byte"},
      {FileOf("{}x"), "no JSON at its byte"},
      {FileOf("{\"\xff\":" + entry + "}", 1), "no JSON at its byte"},
      {FileOf("{\"w\":1}"), "a number where none belongs"},
      {FileOf("{\"w\":null}"), "null"},
      {FileOf("{\"w\":" + std::string(100'000, '[')), "an array where none belongs"},
      {FileOf("{\"w\":{\"dtype\":{}}}"), "an object where none belongs"},
      // Keys.
      {FileOf("{\"w\":" + entry + ",\"w\":" + entry + "}", 1), "the key twice"},
      {FileOf("{\"__metadata__\":{},\"__metadata__\":{}}"), "the key twice"},
      {FileOf("{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}"), "the key twice"},
      {FileOf("{\"__metadata__\":{\"a\":1}}"), "a number where none belongs"},
      {FileOf("{\"__metadata__\":\"a\"}"), "a text where none belongs"},
      {FileOf("{\"w\":{\"dtype\":\"U8\",\"dtype\":\"I8\"}}"), "the key twice"},
      {FileOf("{\"w\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1), "data_offsets is missing"},
      {FileOf("{\"w\":{\"strides\":[1]}}"), "an unknown key"},
      // Numbers.
      {FileOf(Tensor(u8, "[-1]", "[0,1]"), 1), "a negative number"},
      {FileOf(Tensor(u8, "[1.0]", "[0,1]"), 1), "no integer below 2^64"},
      {FileOf(Tensor(u8, "[18446744073709551616]", "[0,1]"), 1), "no integer below 2^64"},
      {FileOf(Tensor(u8, "[1e999]", "[0,1]"), 1), "no JSON at its byte"},
      {FileOf(Tensor(u8, "[true]", "[0,1]"), 1), "a boolean"},
      {FileOf(Tensor(u8, "[\"1\"]", "[0,1]"), 1), "a text where none belongs"},
      {FileOf(Tensor(u8, "1", "[0,1]"), 1), "a number where none belongs"},
      {FileOf(Tensor(u8, "[18446744073709551615]", "[0,1]"), 1), "overflows"},
      {FileOf(Tensor(u8, "[4294967296,4294967296]", "[0,0]")), "overflows"},
      {FileOf(Tensor("\"F64\"", "[2305843009213693952]", "[0,0]")), "overflows"},
      // Tensors against the data.
      {FileOf(Tensor("\"F31\"", "[1]", "[0,4]"), 4), "the unknown dtype \"F31\""},
      {FileOf(Tensor("1", "[1]", "[0,4]"), 4), "a number where none belongs"},
      {FileOf(Tensor(u8, "[1]", "[0]"), 1), "not two offsets"},
      {FileOf(Tensor(u8, "[1]", "[0,1,1]"), 1), "not two offsets"},
      {FileOf(Tensor(u8, "[1]", "[1,0]"), 1), "do not lie in"},
      {FileOf(Tensor(u8, "[2]", "[0,2]"), 1), "do not lie in the file's 1 bytes"},
      {FileOf(Tensor("\"F32\"", "[1]", "[0,3]"), 3), "has 3 bytes, but its dtype and shape make 4"},
      {FileOf(Tensor(u8, "[1]", "[0,1]"), 2), "the tensors end at byte 1 of the data, which has 2"},
      {FileOf(Tensor(u8, "[1]", "[1,2]"), 2), "behind a hole"},
      {FileOf(TwoTensors(0, 1, 2, 3), 3), "behind a hole"},
      {FileOf(TwoTensors(0, 2, 1, 3), 3), "inside the tensor before it"},
      {FileOf(TwoTensors(0, 2, 0, 2), 2), "inside the tensor before it"},
      {FileOf("{}", 1), "the tensors end at byte 0"},
  };
  for (const auto& [file, cause] : kCases) {
    const std::string shown = file.substr(0, 120);
    const absl::Status status = OpenStatus(file);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << shown;
    EXPECT_EQ(ReasonOf(status), v1::MODEL_INVALID) << shown;
    EXPECT_THAT(std::string(status.message()), HasSubstr(path_)) << shown;
    EXPECT_THAT(std::string(status.message()), HasSubstr(cause)) << shown;
  }
}

TEST_F(Safetensors, ShowsTheNameOfABadTensorAsHarmlessText) {
  const absl::Status status =
      OpenStatus(FileOf("{\"\\u001b[31m" + std::string(500, 'x') + "\":{\"bad\":1}}"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("\\x1b[31mxxx"));
  EXPECT_LT(status.message().size(), 600);
}

}  // namespace
}  // namespace tasuki
