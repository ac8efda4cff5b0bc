// What a caller sends along to find its call in our log: the trace that it is part of (W3C Trace
// Context, level 1), and a request id.
#pragma once

#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/string_view.h"

namespace tasuki {

// The trace id, 32 lower-case hex digits, of a `traceparent` such as
// 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01; empty if it is malformed, so that
// nothing else of a stranger gets into the log. Later versions may have more at the end.
inline std::string TraceIdOf(absl::string_view traceparent) {
  const auto hex = [&](size_t begin, size_t count) {
    const absl::string_view part = traceparent.substr(begin, count);
    return std::all_of(part.begin(), part.end(), [](unsigned char c) {
      return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
    });
  };
  if (traceparent.size() < 55 || (traceparent.size() > 55 && traceparent[55] != '-')) return "";
  if (traceparent[2] != '-' || traceparent[35] != '-' || traceparent[52] != '-') return "";
  if (!hex(0, 2) || !hex(3, 32) || !hex(36, 16) || !hex(53, 2)) return "";
  const absl::string_view version = traceparent.substr(0, 2), id = traceparent.substr(3, 32);
  if (version == "ff" || (version == "00" && traceparent.size() > 55)) return "";
  if (id.find_first_not_of('0') == absl::string_view::npos) return "";
  return std::string(id);
}

// The value of an `x-request-id`; empty if it is longer than 128 bytes or has others than letters,
// digits and .:/_-.
inline std::string RequestIdOf(absl::string_view value) {
  const bool good = value.size() <= 128 && std::all_of(value.begin(), value.end(), [](char c) {
                      return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
                             absl::string_view(".:/_-").find(c) != absl::string_view::npos;
                    });
  return good ? std::string(value) : "";
}

}  // namespace tasuki
