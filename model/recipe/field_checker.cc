#include "model/recipe/field_checker.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tasuki {

std::string WithCommas(int64_t value) {
  std::string digits = absl::StrCat(value);
  const int first = value < 0 ? 1 : 0;
  for (int at = static_cast<int>(digits.size()) - 3; at > first; at -= 3) digits.insert(at, ",");
  return digits;
}

FieldChecker::FieldChecker(std::string path, Faults& faults)
    : path_(std::move(path)), faults_(faults) {}

FieldChecker FieldChecker::At(absl::string_view field) const {
  return FieldChecker(Path(field), faults_);
}

FieldChecker FieldChecker::At(absl::string_view field, int index) const {
  return At(absl::StrCat(field, "[", index, "]"));
}

std::string FieldChecker::Path(absl::string_view field) const {
  return path_.empty() ? std::string(field) : absl::StrCat(path_, ".", field);
}

void FieldChecker::Add(absl::string_view field, absl::string_view fault) const {
  faults_.Add(Path(field), fault);
}

void FieldChecker::Count(absl::string_view field, int count, int low, int high) const {
  if (count >= low && count <= high) return;
  Add(field, absl::StrCat("has ", count, " entries; ", low, " to ", high, " are allowed"));
}

void FieldChecker::Integer(absl::string_view field, int64_t value, int64_t low,
                           int64_t high) const {
  if (value >= low && value <= high) return;
  Add(field,
      absl::StrCat(WithCommas(value), " is not in ", WithCommas(low), " to ", WithCommas(high)));
}

void FieldChecker::Real(absl::string_view field, double value, double low, double high) const {
  if (value >= low && value <= high) return;
  Add(field, absl::StrCat(value, " is not in ", low, " to ", high));
}

void FieldChecker::AtLeastZero(absl::string_view field, int64_t value) const {
  if (value < 0) Add(field, absl::StrCat(WithCommas(value), " is below 0"));
}

void FieldChecker::Positive(absl::string_view field, double value, int64_t high) const {
  if (value > 0 && value <= high) return;
  Add(field, absl::StrCat(value, " is not more than 0 and at most ", WithCommas(high)));
}

void FieldChecker::FiniteAtLeastZero(absl::string_view field, double value) const {
  if (value >= 0 && std::isfinite(value)) return;
  Add(field, absl::StrCat(value, " is not 0 or a finite number above it"));
}

void FieldChecker::Known(absl::string_view field, int value, bool known) const {
  if (!known) Add(field, absl::StrCat(value, " is none of its values"));
}

}  // namespace tasuki
