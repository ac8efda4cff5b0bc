// UTF-8 that is not trusted.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace tasuki {

// Length in bytes of the well-formed character that `text` begins with; 0 if it begins with none.
size_t CharacterLength(absl::string_view text);

// Offset of the first byte that is not part of well-formed UTF-8 (RFC 3629: no surrogates, no
// overlong forms); npos if there is none.
size_t FirstInvalidUtf8(absl::string_view text);

// `value` in double quotes for a message: at most 24 bytes of it, cut between two characters, with
// control characters and bytes that are not UTF-8 as \xNN.
std::string Excerpt(absl::string_view value);

}  // namespace tasuki
