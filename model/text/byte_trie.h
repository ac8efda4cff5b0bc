// A set of byte strings that is searched byte by byte.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace tasuki {

// Immutable after Build; thread-safe.
class ByteTrie {
 public:
  static constexpr int kRoot = 0;
  static constexpr int kNone = -1;

  // Keys with their values (0 or more); nothing if a key comes twice or is empty. The strings are
  // not needed afterwards.
  static std::optional<ByteTrie> Build(std::vector<std::pair<absl::string_view, int>> keys);
  ByteTrie() : nodes_(1) {}

  bool empty() const { return nodes_.size() == 1; }
  // The node that `byte` leads to, or kNone.
  int Child(int node, char byte) const;
  // Value of the key that ends at the node, or kNone.
  int value(int node) const { return nodes_[node].value; }

 private:
  struct Node {
    int first_child = 0;
    int value = kNone;
    uint16_t child_count = 0;
    uint8_t byte = 0;  // that leads to it
  };
  // Children of a node lie together, in the order of their bytes.
  std::vector<Node> nodes_;
};

}  // namespace tasuki
