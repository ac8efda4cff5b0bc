// The tokens that a server takes. The file has one a line (docs/formats.md):
//
//   # name  role      SHA-256 of the token
//   app1    classify  sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
//
// Only hashes are stored. A token is 256 random bits (`tasuki token create`), which nobody guesses:
// a slow hash such as bcrypt, made for passwords that people think of, would only make every call
// slow.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/rpc/roles.h"

namespace tasuki {

// Constant after construction; thread-safe.
class Tokens {
 public:
  struct Token {
    std::string name;
    Role role;
    std::string sha256;  // lower-case hex
  };

  // INVALID_ARGUMENT, naming the line, for one of another form, a name or a hash that comes twice,
  // or more than 1,000 tokens. A text without any is good: it lets nobody in.
  static absl::StatusOr<Tokens> Parse(absl::string_view text);

  // The token whose hash this is, or nullptr. Looks at every token, and at every byte of each, so
  // that the time says nothing about the stored hashes.
  const Token* Find(absl::string_view sha256) const;

  size_t size() const { return tokens_.size(); }

 private:
  std::vector<Token> tokens_;
};

}  // namespace tasuki
