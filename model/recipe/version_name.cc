#include "model/recipe/version_name.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "model/recipe/recipe.h"

namespace tasuki {

bool IsModelName(absl::string_view name) {
  return absl::ConsumePrefix(&name, "models/") && IsResourceId(name);
}

std::optional<VersionName> VersionName::Parse(absl::string_view name) {
  const size_t at = name.find("/versions/");
  if (at == absl::string_view::npos || !IsModelName(name.substr(0, at))) return std::nullopt;
  VersionName result;
  result.model = std::string(name.substr(0, at));
  // Spelled back and compared, so that " 3", "+3" and "03" are no names.
  if (!absl::SimpleAtoi(name.substr(at + 10), &result.version) || result.version < 1 ||
      result.ToString() != name) {
    return std::nullopt;
  }
  return result;
}

std::string VersionName::ToString() const { return absl::StrCat(model, "/versions/", version); }

std::string VersionName::Short() const {
  return absl::StrCat(absl::StripPrefix(model, "models/"), "@", version);
}

std::optional<AliasName> AliasName::Parse(absl::string_view name) {
  const size_t at = name.find("/aliases/");
  if (at == absl::string_view::npos || !IsModelName(name.substr(0, at)) ||
      !IsResourceId(name.substr(at + 9))) {
    return std::nullopt;
  }
  return AliasName{std::string(name.substr(0, at)), std::string(name.substr(at + 9))};
}

std::string AliasName::ToString() const { return absl::StrCat(model, "/aliases/", alias); }

}  // namespace tasuki
