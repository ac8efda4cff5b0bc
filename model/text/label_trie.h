// The labels of a task as a trie of tokens.
//
// A label is the tokens of its target text followed by </s>, so a label that is a prefix of another
// branches at </s>. log p(label) is the sum, over the nodes of its path that branch, of log-softmax
// over that node's children. One decoder pass over the `rows` gives all of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/text/tokenizer.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

// Immutable after Build; thread-safe.
class LabelTrie {
 public:
  // A decoder position: a prefix shared by two labels or more, or an ancestor of such a prefix.
  struct Row {
    int32_t token;  // input token: pad (the decoder's start) at the root
    int parent;     // index of the row before it; -1 at the root
    int depth;      // position in the decoder; 0 at the root
    // Where the row branches (two children or more), the children's tokens and, for each, a label
    // that ends there or -1. Empty for rows that only lead to others.
    std::vector<int32_t> child_tokens;
  };
  // A step of a label's path through a branching row.
  struct Step {
    int row;    // index into rows()
    int child;  // index into that row's child_tokens
  };

  // INVALID_ARGUMENT, LABEL_INDISTINCT: two labels of equal tokens, or one with an unknown token or
  // no token at all; the message names the labels and the text.
  static absl::StatusOr<LabelTrie> Build(const v1::Task& task, const Tokenizer& tokenizer);

  // Parents before children; rows()[0] is the root.
  const std::vector<Row>& rows() const { return rows_; }
  // Path of label i of the task.
  const std::vector<Step>& path(int label) const { return paths_[label]; }
  // Target of label i: its tokens with </s>.
  const std::vector<int32_t>& target(int label) const { return targets_[label]; }
  int label_count() const { return static_cast<int>(paths_.size()); }

 private:
  std::vector<Row> rows_;
  std::vector<std::vector<Step>> paths_;
  std::vector<std::vector<int32_t>> targets_;
};

}  // namespace tasuki
