// The table by which a SentencePiece model normalises characters.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tasuki {

// The file's `precompiled_charsmap`: size of a trie (32 bits, little-endian), the trie (a double
// array of 32-bit units, as Darts-clone makes them) from byte sequences to offsets, and the
// replacements at these offsets, each ending in NUL. Immutable after Parse; thread-safe.
class Charsmap {
 public:
  struct Match {
    size_t length = 0;  // of what is replaced; 0 if nothing is
    absl::string_view replacement;
  };

  // Checks every unit that some text can reach: it and its children lie within the trie, its
  // replacement within the blob, in UTF-8, of at most 64 bytes. An empty blob replaces nothing.
  // INVALID_ARGUMENT, MODEL_INVALID.
  static absl::StatusOr<Charsmap> Parse(absl::string_view blob);

  // The longest entry, of up to 64 bytes, that `text` begins with.
  Match Find(absl::string_view text) const;

 private:
  struct Unit {
    uint32_t bits;
    bool has_leaf() const { return (bits >> 8) & 1; }
    uint32_t value() const { return bits & 0x7FFFFFFF; }
    uint32_t label() const { return bits & 0x800000FF; }
    uint32_t offset() const { return (bits >> 10) << ((bits & 0x200) >> 6); }
  };
  static_assert(sizeof(Unit) == 4);

  // What is wrong with the trie, if anything.
  std::optional<std::string> FindFault() const;
  bool IsReplacement(uint32_t offset) const;

  std::vector<Unit> units_;
  std::string replacements_;
};

}  // namespace tasuki
