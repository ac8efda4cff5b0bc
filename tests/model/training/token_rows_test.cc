#include "model/training/token_rows.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <numeric>

#include "absl/strings/str_cat.h"

namespace tasuki {
namespace {

using testing::ElementsAre;

TEST(TokenRows, GivesBackWhatWasAdded) {
  TokenRows rows;
  rows.Add({5, 6});
  rows.Add({});
  rows.Add({7});
  ASSERT_EQ(rows.size(), 3);
  EXPECT_EQ(rows.tokens(), 3);
  EXPECT_THAT(rows[0], ElementsAre(5, 6));
  EXPECT_TRUE(rows[1].empty());
  EXPECT_THAT(rows[2], ElementsAre(7));
}

// Rows of 1,000 tokens and fewer, which end in pieces of memory as well as across them.
std::vector<int32_t> RowOf(int row) {
  std::vector<int32_t> tokens(row % 1001);
  std::iota(tokens.begin(), tokens.end(), row);
  return tokens;
}

void ExpectRows(const TokenRows& rows, int count) {
  ASSERT_TRUE(rows.status().ok()) << rows.status();
  ASSERT_EQ(rows.size(), count);
  for (int row = 0; row < count; ++row) {
    ASSERT_EQ(rows[row], absl::MakeConstSpan(RowOf(row))) << row;
  }
}

TEST(TokenRows, ManyMiBInAFileAndInMemoryAreTheSame) {
  const std::string directory = absl::StrCat(testing::TempDir(), "token_rows_test-", getpid());
  std::filesystem::create_directories(directory);
  for (const std::string& place : {directory, std::string(), directory + "/not-there"}) {
    TokenRows rows(place);
    constexpr int kRows = 8000;  // 4,000,000 tokens
    for (int row = 0; row < kRows; ++row) rows.Add(RowOf(row));
    const absl::Span<const int32_t> kept = rows[1999];
    ExpectRows(rows, kRows);
    const TokenRows moved = std::move(rows);
    ExpectRows(moved, kRows);
    EXPECT_EQ(kept, absl::MakeConstSpan(RowOf(1999)));
    EXPECT_TRUE(std::filesystem::is_empty(directory));  // the file has no name
  }
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace tasuki
