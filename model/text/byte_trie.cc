#include "model/text/byte_trie.h"

#include <algorithm>

namespace tasuki {

std::optional<ByteTrie> ByteTrie::Build(std::vector<std::pair<absl::string_view, int>> keys) {
  std::sort(keys.begin(), keys.end());
  for (size_t i = 0; i < keys.size(); ++i) {
    if (keys[i].first.empty() || (i > 0 && keys[i].first == keys[i - 1].first)) return std::nullopt;
  }
  struct Range {
    size_t begin, end, depth;  // keys that go through the node, and its distance from the root
  };
  ByteTrie trie;
  std::vector<Range> ranges = {{0, keys.size(), 0}};
  for (size_t node = 0; node < ranges.size(); ++node) {
    auto [begin, end, depth] = ranges[node];
    if (begin < end && keys[begin].first.size() == depth) {
      trie.nodes_[node].value = keys[begin++].second;
    }
    trie.nodes_[node].first_child = trie.nodes_.size();
    while (begin < end) {
      Node child;
      child.byte = static_cast<uint8_t>(keys[begin].first[depth]);
      size_t next = begin;
      while (next < end && static_cast<uint8_t>(keys[next].first[depth]) == child.byte) ++next;
      trie.nodes_.push_back(child);
      ranges.push_back({begin, next, depth + 1});
      ++trie.nodes_[node].child_count;
      begin = next;
    }
  }
  return trie;
}

int ByteTrie::Child(int node, char byte) const {
  const auto first = nodes_.begin() + nodes_[node].first_child;
  const auto last = first + nodes_[node].child_count;
  const auto wanted = static_cast<uint8_t>(byte);
  const auto found = std::lower_bound(first, last, wanted,
                                      [](const Node& of, uint8_t byte) { return of.byte < byte; });
  return found != last && found->byte == wanted ? found - nodes_.begin() : kNone;
}

}  // namespace tasuki
