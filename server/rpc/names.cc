#include "server/rpc/names.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "model/errors/errors.h"
#include "model/recipe/recipe.h"
#include "model/recipe/version_name.h"

namespace tasuki {
namespace {

constexpr char kIdForm[] = "where the id is [a-z]([a-z0-9-]{0,61}[a-z0-9])?";

absl::Status Check(bool right, absl::string_view name, absl::string_view field,
                   absl::string_view form) {
  if (right) return absl::OkStatus();
  Faults faults;
  faults.Add(field, name.empty() ? absl::StrCat("is missing; it has the form ", form)
                                 : absl::StrCat("\"", name.substr(0, 200),
                                                "\" does not have the form ", form));
  return faults.ToStatus();
}

bool IsVersionName(absl::string_view name) { return VersionName::Parse(name).has_value(); }

bool IsDatasetName(absl::string_view name) {
  return absl::ConsumePrefix(&name, "datasets/d-") && name.size() == 16 &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
         });
}

}  // namespace

absl::Status CheckDatasetName(absl::string_view name, absl::string_view field) {
  return Check(IsDatasetName(name), name, field, "datasets/d-0123456789abcdef");
}

absl::Status CheckJobName(absl::string_view name, absl::string_view field) {
  absl::string_view id = name;
  return Check(absl::ConsumePrefix(&id, "trainingJobs/") && IsResourceId(id), name, field,
               absl::StrCat("trainingJobs/{id}, ", kIdForm));
}

absl::Status CheckModelName(absl::string_view name, absl::string_view field) {
  return Check(IsModelName(name), name, field, absl::StrCat("models/{model}, ", kIdForm));
}

absl::Status CheckVersionName(absl::string_view name, absl::string_view field) {
  return Check(IsVersionName(name), name, field, "models/{model}/versions/{version}");
}

absl::Status CheckAliasName(absl::string_view name, absl::string_view field) {
  return Check(AliasName::Parse(name).has_value(), name, field,
               absl::StrCat("models/{model}/aliases/{alias}, ", kIdForm));
}

absl::Status CheckServedName(absl::string_view name, absl::string_view field) {
  return Check(
      IsModelName(name) || IsVersionName(name) || AliasName::Parse(name).has_value(), name, field,
      "models/{model}, models/{model}/versions/{version} or models/{model}/aliases/{alias}");
}

absl::Status CheckModelOrVersionName(absl::string_view name, absl::string_view field) {
  return Check(IsModelName(name) || IsVersionName(name), name, field,
               "models/{model} or models/{model}/versions/{version}");
}

}  // namespace tasuki
