// Says what is wrong with a field of a message, as faults under the field's path.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "model/errors/errors.h"

namespace tasuki {

// 100,000,000 as documents write it.
std::string WithCommas(int64_t value);

// Checks the fields of the message that lies at `path` in the request ("" for the request itself).
// `faults` must outlive it. Not thread-safe.
class FieldChecker {
 public:
  FieldChecker(std::string path, Faults& faults);

  // The checker of the message in `field`, or in `field`[`index`].
  FieldChecker At(absl::string_view field) const;
  FieldChecker At(absl::string_view field, int index) const;

  void Add(absl::string_view field, absl::string_view fault) const;
  // `low` ≤ `count` ≤ `high` entries.
  void Count(absl::string_view field, int count, int low, int high) const;
  // `low` ≤ `value` ≤ `high`; NaN is in no range.
  void Integer(absl::string_view field, int64_t value, int64_t low, int64_t high) const;
  void Real(absl::string_view field, double value, double low, double high) const;
  void AtLeastZero(absl::string_view field, int64_t value) const;
  // 0 < `value` ≤ `high`.
  void Positive(absl::string_view field, double value, int64_t high) const;
  // Neither below 0 nor infinite nor NaN.
  void FiniteAtLeastZero(absl::string_view field, double value) const;
  // An enum, `known` being what its …_IsValid says.
  void Known(absl::string_view field, int value, bool known) const;

 private:
  std::string Path(absl::string_view field) const;

  std::string path_;
  Faults& faults_;
};

}  // namespace tasuki
