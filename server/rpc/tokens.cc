#include "server/rpc/tokens.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "model/errors/errors.h"

namespace tasuki {
namespace {

constexpr size_t kMaxTokens = 1000;
constexpr size_t kHashDigits = 64;

bool IsName(absl::string_view name) {
  return !name.empty() && name.size() <= 63 &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
         });
}

bool IsHash(absl::string_view hash) {
  return hash.size() == kHashDigits && std::all_of(hash.begin(), hash.end(), [](unsigned char c) {
           return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
         });
}

}  // namespace

absl::StatusOr<Tokens> Tokens::Parse(absl::string_view text) {
  Tokens tokens;
  int number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    // Never the line itself: somebody may have written a token where its hash belongs.
    const auto fault = [number](absl::string_view what) {
      return absl::InvalidArgumentError(absl::StrCat("line ", number, ": ", what));
    };
    const std::vector<absl::string_view> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
    if (words.empty() || words[0][0] == '#') continue;
    if (words.size() != 3) return fault("not of the form NAME ROLE sha256:HASH");
    if (!IsName(words[0])) {
      return fault("the name is not of 1 to 63 letters, digits, \"-\", \"_\" and \".\"");
    }
    const auto role = RoleNamed(words[1]);
    if (!role.has_value()) return fault("the role is not read, classify, train or admin");
    absl::string_view hash = words[2];
    if (!absl::ConsumePrefix(&hash, "sha256:") || !IsHash(hash)) {
      return fault("the hash is not \"sha256:\" and 64 lower-case hexadecimal digits");
    }
    for (const Token& other : tokens.tokens_) {
      if (other.name == words[0]) return fault(absl::StrCat(Quote(words[0]), " is there twice"));
      if (other.sha256 == hash) {
        return fault(absl::StrCat(Quote(words[0]), " has the hash of ", Quote(other.name)));
      }
    }
    if (tokens.tokens_.size() == kMaxTokens) {
      return fault(absl::StrCat("more than ", kMaxTokens, " tokens"));
    }
    tokens.tokens_.push_back({std::string(words[0]), *role, std::string(hash)});
  }
  return tokens;
}

const Tokens::Token* Tokens::Find(absl::string_view sha256) const {
  const Token* found = nullptr;
  if (sha256.size() != kHashDigits) return found;
  for (const Token& token : tokens_) {
    if (CRYPTO_memcmp(token.sha256.data(), sha256.data(), kHashDigits) == 0) found = &token;
  }
  return found;
}

}  // namespace tasuki
