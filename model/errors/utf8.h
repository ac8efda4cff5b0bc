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

// `text` with each such byte as U+FFFD.
std::string ToUtf8(absl::string_view text);

}  // namespace tasuki
