// SHA-256 of bytes that come piece by piece. Thread-compatible.
#pragma once

#include <memory>
#include <string>

#include "absl/strings/string_view.h"

namespace tasuki::client {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  void Update(absl::string_view bytes);
  // Lower-case hex of everything so far. REQUIRES: called once, at the end.
  std::string Finish();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace tasuki::client
