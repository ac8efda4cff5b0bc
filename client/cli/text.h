// Text for a terminal: what is safe to print, how many columns it takes, and how numbers, sizes and
// times are written for people. Functions of values: any thread.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/timestamp.pb.h"

namespace tasuki::cli {

// The text on one line, without anything that would steer a terminal: control characters become
// spaces, bytes that are not UTF-8 become U+FFFD.
std::string Printable(absl::string_view text);

// Columns that UTF-8 text takes in a terminal: two for East Asian wide characters and emoji, none
// for combining marks, one for all others (characters of ambiguous width are counted as narrow).
int DisplayWidth(absl::string_view text);

// The text itself if it fits into `columns`, otherwise its beginning and "...". REQUIRES: columns
// >= 3.
std::string Shorten(absl::string_view text, int columns);

// 1234567 → "1,234,567".
std::string Count(int64_t count);
// 1536 → "1.5 KiB".
std::string Bytes(int64_t bytes);
// 0.91345 → "0.9135".
std::string Figure(double figure);
// "9 s", "1 min 20 s", "2 h 05 min".
std::string Span(absl::Duration duration);
// "2026-11-23 14:05:09" in local time; "-" if it is not set.
std::string DateTime(const google::protobuf::Timestamp& time);

}  // namespace tasuki::cli
