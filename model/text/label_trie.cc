#include "model/text/label_trie.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/errors/errors.h"
#include "model/errors/utf8.h"

namespace tasuki {
namespace {

// A prefix of targets; std::map keeps children in the order of their tokens.
struct Node {
  int parent = -1;
  int depth = 0;
  int32_t token = 0;
  std::map<int32_t, int> children;  // token → index of the node
  bool kept = false;                // branches, or leads to a node that does
};

const std::string& TargetText(const v1::Label& label) {
  return label.target_text().empty() ? label.name() : label.target_text();
}

absl::Status Indistinct(const v1::Task& task, const std::vector<std::string>& faults) {
  return MakeError(absl::StatusCode::kInvalidArgument, v1::LABEL_INDISTINCT,
                   absl::StrCat("task ", Quote(task.name()), ": ", absl::StrJoin(faults, "; ")),
                   {{"task", task.name()}});
}

std::vector<Node> MakeNodes(const std::vector<std::vector<int32_t>>& targets, int32_t root_token) {
  std::vector<Node> nodes(1);
  nodes[0].token = root_token;
  for (const auto& target : targets) {
    int at = 0;
    for (const int32_t token : target) {
      const auto [child, is_new] = nodes[at].children.emplace(token, nodes.size());
      const int next = child->second;
      if (is_new) {
        Node node;
        node.parent = at;
        node.depth = nodes[at].depth + 1;
        node.token = token;
        nodes.push_back(std::move(node));
      }
      at = next;
    }
  }
  nodes[0].kept = true;
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i].children.size() < 2) continue;
    for (int at = i; at >= 0 && !nodes[at].kept; at = nodes[at].parent) nodes[at].kept = true;
  }
  return nodes;
}

// The characters of a text of which the tokenizer knows none: "問", "礼".
std::string UnknownCharacters(const std::string& text, const Tokenizer& tokenizer) {
  std::set<std::string> unknown;
  for (size_t begin = 0, length; begin < text.size(); begin += length) {
    length = std::max<size_t>(CharacterLength(absl::string_view(text).substr(begin)), 1);
    const std::string character = text.substr(begin, length);
    const auto tokens = tokenizer.Encode(character);
    if (tokens.ok() && std::count(tokens->begin(), tokens->end(), tokenizer.unk_id()) > 0) {
      unknown.insert(Quote(character));
    }
  }
  return absl::StrJoin(unknown, ", ");
}

}  // namespace

absl::StatusOr<LabelTrie> LabelTrie::Build(const v1::Task& task, const Tokenizer& tokenizer) {
  LabelTrie trie;
  std::vector<std::string> faults;
  std::map<std::vector<int32_t>, const v1::Label*> seen;
  for (const v1::Label& label : task.labels()) {
    const std::string& text = TargetText(label);
    const std::string who =
        absl::StrCat("the target text ", Quote(text), " of label ", Quote(label.name()));
    absl::StatusOr<std::vector<int32_t>> tokens = tokenizer.Encode(text);
    if (!tokens.ok()) return Annotate(tokens.status(), absl::StrCat(who, ": "));
    const std::set<int32_t> distinct(tokens->begin(), tokens->end());
    const auto [first, is_new] = seen.emplace(*tokens, &label);
    if (tokens->empty()) {
      faults.push_back(absl::StrCat(who, " has no token; choose another text"));
    } else if (distinct.count(tokenizer.unk_id()) > 0) {
      faults.push_back(absl::StrCat(
          who, " has characters that the base model's tokenizer does not know: ",
          UnknownCharacters(text, tokenizer),
          "; set target_text to a text that it knows, or pre-train a base with this one among its "
          "required_texts"));
    } else if (!is_new) {
      faults.push_back(absl::StrCat(who, " has the same tokens as ",
                                    Quote(TargetText(*first->second)), " of label ",
                                    Quote(first->second->name()), "; choose another"));
    }
    tokens->push_back(tokenizer.eos_id());
    trie.targets_.push_back(*std::move(tokens));
  }
  if (!faults.empty()) return Indistinct(task, faults);

  const std::vector<Node> nodes = MakeNodes(trie.targets_, tokenizer.pad_id());
  std::vector<int> row_of(nodes.size(), -1);
  for (size_t i = 0; i < nodes.size(); ++i) {
    const Node& node = nodes[i];
    if (!node.kept) continue;
    row_of[i] = trie.rows_.size();
    Row row{node.token, node.parent < 0 ? -1 : row_of[node.parent], node.depth, {}};
    if (node.children.size() > 1) {
      for (const auto& [token, child] : node.children) row.child_tokens.push_back(token);
    }
    trie.rows_.push_back(std::move(row));
  }
  for (const auto& target : trie.targets_) {
    std::vector<Step> path;
    int at = 0;
    for (const int32_t token : target) {
      const auto child = nodes[at].children.find(token);
      if (nodes[at].children.size() > 1) {
        const auto index = std::distance(nodes[at].children.begin(), child);
        path.push_back({row_of[at], static_cast<int>(index)});
      }
      at = child->second;
    }
    trie.paths_.push_back(std::move(path));
  }
  return trie;
}

}  // namespace tasuki
