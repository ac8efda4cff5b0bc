#include "server/store/paging.h"

#include <algorithm>
#include <cstdint>
#include <limits>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"

namespace tasuki {
namespace {

constexpr int kDefaultPageSize = 50;
constexpr int kMaxPageSize = 1000;
constexpr size_t kChecksumBytes = 8;

// FNV-1a over listing and key. It guards against mistakes; a token holds nothing worth forging.
std::string Checksum(absl::string_view listing, absl::string_view key) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : absl::StrCat(listing, absl::string_view("\0", 1), key)) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  }
  std::string bytes(kChecksumBytes, '\0');
  for (char& byte : bytes) {
    byte = static_cast<char>(hash & 0xFF);
    hash >>= 8;
  }
  return bytes;
}

}  // namespace

long long PageStart::before() const {
  long long number = 0;
  return absl::SimpleAtoi(key, &number) ? number : std::numeric_limits<long long>::max();
}

std::string MakePageToken(absl::string_view listing, absl::string_view key) {
  return absl::WebSafeBase64Escape(absl::StrCat(Checksum(listing, key), key));
}

absl::StatusOr<PageStart> StartOfPage(absl::string_view listing, int page_size,
                                      absl::string_view page_token) {
  if (page_size < 0) {
    Faults faults;
    faults.Add("page_size", absl::StrCat(page_size, " is negative; leave it out or ask for 1 to ",
                                         kMaxPageSize));
    return faults.ToStatus();
  }
  PageStart start;
  start.size = page_size == 0 ? kDefaultPageSize : std::min(page_size, kMaxPageSize);
  if (page_token.empty()) return start;
  std::string bytes;
  if (absl::WebSafeBase64Unescape(page_token, &bytes) && bytes.size() > kChecksumBytes) {
    start.key = bytes.substr(kChecksumBytes);
    // Compared as text: base64 has several spellings of the same bytes.
    if (MakePageToken(listing, start.key) == page_token) return start;
  }
  return MakeError(absl::StatusCode::kInvalidArgument, v1::PAGE_TOKEN_INVALID,
                   "page_token was not made by this listing with these filters: leave it out to "
                   "begin at the first page");
}

}  // namespace tasuki
