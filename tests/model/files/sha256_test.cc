#include "model/files/sha256.h"

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"

namespace tasuki {
namespace {

// FIPS 180-4's own examples.
constexpr char kOfAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
constexpr char kOfNothing[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
constexpr char kOfMillionA[] = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

TEST(Sha256, HashesTheExamplesOfTheStandard) {
  EXPECT_EQ(Sha256Of("abc"), kOfAbc);
  EXPECT_EQ(Sha256Of(""), kOfNothing);
  EXPECT_EQ(Sha256Of(std::string(1'000'000, 'a')), kOfMillionA);
}

TEST(Sha256, HashesPiecesAsTheWhole) {
  Sha256 hash;
  hash.Update("a");
  hash.Update("");
  Sha256 moved = std::move(hash);
  moved.Update("bc");
  EXPECT_EQ(moved.Finish(), kOfAbc);
}

TEST(Sha256OfFile, HashesAFileAndNamesOneThatIsMissing) {
  const std::string path = absl::StrCat(::testing::TempDir(), "sha256_test.", getpid());
  ASSERT_TRUE(WriteFile(path, std::string(3'000'000, 'a')).ok());
  EXPECT_EQ(Sha256OfFile(path).value(), Sha256Of(std::string(3'000'000, 'a')));
  ASSERT_TRUE(RemoveAll(path).ok());
  const absl::Status missing = Sha256OfFile(path).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(missing.message().find(path), std::string::npos);
  EXPECT_EQ(Sha256OfFile(::testing::TempDir()).status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace tasuki
