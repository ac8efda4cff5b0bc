// Excerpts of UTF-8 that is not trusted.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "model/errors/utf8.h"

namespace tasuki {

// `value` in double quotes for a message: at most 24 bytes of it, cut between two characters, with
// control characters and bytes that are not UTF-8 as \xNN.
std::string Excerpt(absl::string_view value);

}  // namespace tasuki
