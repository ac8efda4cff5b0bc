// Which token may call which method: the one table.
//
// A new method needs a row in roles.cc; without one it is refused to everybody, and a test fails
// (tests/server/access_table_test.cc calls every method of every service as every role).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace tasuki {

// What a token is for. docs/security.md says what each may do.
enum class Role : uint8_t { kRead, kClassify, kTrain, kAdmin };

// "read", "classify", "train", "admin".
const char* NameOf(Role role);
std::optional<Role> RoleNamed(absl::string_view name);

// A set of roles.
class Roles {
 public:
  // Nobody.
  constexpr Roles() = default;
  template <typename... Role>
  static constexpr Roles Of(Role... roles) {
    return Roles(((1U << static_cast<unsigned>(roles)) | ...));
  }
  // Who has no token, too.
  static constexpr Roles Everybody() { return Roles(0xff); }

  constexpr bool Has(Role role) const { return (bits_ >> static_cast<unsigned>(role) & 1) != 0; }
  constexpr bool operator==(const Roles&) const = default;
  // "read, train or admin".
  std::string ToString() const;

 private:
  explicit constexpr Roles(unsigned bits) : bits_(static_cast<uint8_t>(bits)) {}
  uint8_t bits_ = 0;
};

// Who may call `method`, such as "/tasuki.v1.ModelService/GetModel"; nobody if it has no row.
Roles RolesOf(absl::string_view method);

}  // namespace tasuki
