#include "model/text/label_trie.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "model/errors/errors.h"

namespace tasuki {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// One token a letter: 'a' is 10; '?' is unknown; spaces have no token.
class Letters : public Tokenizer {
 public:
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text) const override {
    std::vector<int32_t> ids;
    for (const char c : text) {
      if (c != ' ') ids.push_back(c == '?' ? unk_id() : c - 'a' + 10);
    }
    return ids;
  }
  std::string Decode(const std::vector<int32_t>&) const override { return ""; }
  int32_t size() const override { return 200; }
  int32_t pad_id() const override { return 0; }
  int32_t eos_id() const override { return 1; }
  int32_t unk_id() const override { return 2; }
  int32_t sentinel_id(int i) const override { return 199 - i; }
};

v1::Task TaskOf(const std::vector<std::string>& texts) {
  v1::Task task;
  task.set_name("letters");
  for (size_t i = 0; i < texts.size(); ++i) {
    v1::Label& label = *task.add_labels();
    label.set_name("label" + std::to_string(i));
    label.set_target_text(texts[i]);
  }
  return task;
}

LabelTrie TrieOf(const std::vector<std::string>& texts) {
  absl::StatusOr<LabelTrie> trie = LabelTrie::Build(TaskOf(texts), Letters());
  EXPECT_TRUE(trie.ok()) << trie.status();
  return *std::move(trie);
}

std::vector<std::pair<int, int>> PathOf(const LabelTrie& trie, int label) {
  std::vector<std::pair<int, int>> path;
  for (const auto& step : trie.path(label)) path.emplace_back(step.row, step.child);
  return path;
}

TEST(LabelTrie, OfLabelsThatDifferAtOnceHasOneRow) {
  const LabelTrie trie = TrieOf({"cde", "a", "bcd"});
  ASSERT_EQ(trie.rows().size(), 1);
  EXPECT_EQ(trie.rows()[0].token, 0);
  EXPECT_EQ(trie.rows()[0].parent, -1);
  EXPECT_EQ(trie.rows()[0].depth, 0);
  EXPECT_THAT(trie.rows()[0].child_tokens, ElementsAre(10, 11, 12));
  EXPECT_THAT(PathOf(trie, 0), ElementsAre(std::pair(0, 2)));
  EXPECT_THAT(PathOf(trie, 1), ElementsAre(std::pair(0, 0)));
  EXPECT_THAT(PathOf(trie, 2), ElementsAre(std::pair(0, 1)));
  EXPECT_THAT(trie.target(0), ElementsAre(12, 13, 14, 1));
  EXPECT_EQ(trie.label_count(), 3);
}

TEST(LabelTrie, BranchesAtTheEndOfALabelThatIsAPrefixOfAnother) {
  const LabelTrie trie = TrieOf({"ab", "abc"});
  // Root and "a" only lead to "ab", which branches into </s> and "c".
  ASSERT_EQ(trie.rows().size(), 3);
  EXPECT_THAT(trie.rows()[0].child_tokens, IsEmpty());
  EXPECT_THAT(trie.rows()[1].child_tokens, IsEmpty());
  EXPECT_THAT(trie.rows()[2].child_tokens, ElementsAre(1, 12));
  EXPECT_EQ(trie.rows()[2].token, 11);
  EXPECT_EQ(trie.rows()[2].parent, 1);
  EXPECT_EQ(trie.rows()[2].depth, 2);
  EXPECT_THAT(PathOf(trie, 0), ElementsAre(std::pair(2, 0)));
  EXPECT_THAT(PathOf(trie, 1), ElementsAre(std::pair(2, 1)));
}

TEST(LabelTrie, KeepsBranchingNodesAndTheirAncestorsOnly) {
  // x leads to no branch after the root, abc… branches at "ab".
  const LabelTrie trie = TrieOf({"xyz", "abc", "abd", "abcde"});
  // Rows: root, a, ab, abc.
  ASSERT_EQ(trie.rows().size(), 4);
  for (size_t i = 1; i < trie.rows().size(); ++i) {
    EXPECT_LT(trie.rows()[i].parent, i);
    EXPECT_EQ(trie.rows()[i].depth, trie.rows()[trie.rows()[i].parent].depth + 1);
  }
  EXPECT_THAT(PathOf(trie, 0), ElementsAre(std::pair(0, 1)));
  EXPECT_EQ(trie.path(3).size(), 3);
  // Every step of a path names the token of the target at that depth.
  for (int label = 0; label < trie.label_count(); ++label) {
    for (const auto& [row, child] : trie.path(label)) {
      EXPECT_EQ(trie.rows()[row].child_tokens[child], trie.target(label)[trie.rows()[row].depth]);
    }
  }
}

TEST(LabelTrie, TakesTheNameWhereThereIsNoTargetText) {
  v1::Task task = TaskOf({"", ""});
  task.mutable_labels(0)->set_name("ab");
  task.mutable_labels(1)->set_name("b");
  const auto trie = LabelTrie::Build(task, Letters());
  ASSERT_TRUE(trie.ok()) << trie.status();
  EXPECT_THAT(trie->target(0), ElementsAre(10, 11, 1));
}

TEST(LabelTrie, RefusesEveryIndistinctLabelAtOnce) {
  const auto trie = LabelTrie::Build(TaskOf({"ab", "a b", "c?", " "}), Letters());
  ASSERT_EQ(trie.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(trie.status()), v1::LABEL_INDISTINCT);
  const std::string message(trie.status().message());
  EXPECT_THAT(message, HasSubstr("\"letters\""));
  EXPECT_THAT(message, HasSubstr("\"a b\" of label \"label1\" has the same tokens as \"ab\""));
  EXPECT_THAT(message, HasSubstr("\"c?\" of label \"label2\" has characters"));
  EXPECT_THAT(message, HasSubstr("of label \"label3\" has no token"));
}

}  // namespace
}  // namespace tasuki
