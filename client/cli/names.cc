#include "client/cli/names.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace tasuki::cli {
namespace {

bool IsId(absl::string_view text) {
  return !text.empty() && absl::ascii_isalnum(text[0]) &&
         std::all_of(text.begin(), text.end(),
                     [](char c) { return absl::ascii_isalnum(c) || c == '-' || c == '_'; });
}

absl::Status NotA(absl::string_view typed, absl::string_view what, absl::string_view example) {
  return absl::InvalidArgumentError(
      absl::StrCat("\"", typed, "\" is not the name of a ", what, ", such as ", example));
}

absl::StatusOr<std::string> InCollection(absl::string_view typed, absl::string_view collection,
                                         absl::string_view what, absl::string_view example) {
  absl::string_view id = typed;
  absl::ConsumePrefix(&id, collection);
  if (!IsId(id)) return NotA(typed, what, example);
  return absl::StrCat(collection, id);
}

// "models/m/versions/v", "m@v" → (m, v); "models/m", "m" → (m, "").
std::pair<absl::string_view, absl::string_view> SplitModel(absl::string_view typed) {
  if (absl::ConsumePrefix(&typed, "models/")) {
    const size_t versions = typed.find("/versions/");
    if (versions == absl::string_view::npos) return {typed, ""};
    return {typed.substr(0, versions), typed.substr(versions + 10)};
  }
  return absl::StrSplit(typed, absl::MaxSplits('@', 1));
}

}  // namespace

absl::StatusOr<std::string> DatasetName(absl::string_view typed) {
  return InCollection(typed, "datasets/", "dataset", "d-0123456789abcdef");
}

absl::StatusOr<std::string> JobName(absl::string_view typed) {
  return InCollection(typed, "trainingJobs/", "training job", "trainingJobs/nightly or nightly");
}

absl::StatusOr<std::string> ModelName(absl::string_view typed) {
  return InCollection(typed, "models/", "model", "models/sentiment or sentiment");
}

absl::StatusOr<std::string> VersionName(absl::string_view typed) {
  const auto [model, version] = SplitModel(typed);
  int number = 0;
  if (!IsId(model) || !absl::SimpleAtoi(version, &number) || number < 1) {
    return NotA(typed, "model version", "sentiment@3 or models/sentiment/versions/3");
  }
  return absl::StrCat("models/", model, "/versions/", number);
}

absl::StatusOr<std::string> AliasName(absl::string_view typed) {
  absl::string_view rest = typed;
  std::pair<absl::string_view, absl::string_view> parts;
  if (absl::ConsumePrefix(&rest, "models/")) {
    parts = absl::StrSplit(rest, absl::MaxSplits("/aliases/", 1));
  } else {
    parts = absl::StrSplit(rest, absl::MaxSplits('@', 1));
  }
  if (!IsId(parts.first) || !IsId(parts.second) || absl::ascii_isdigit(parts.second[0])) {
    return NotA(typed, "model's alias",
                "sentiment@production or models/sentiment/aliases/production");
  }
  return absl::StrCat("models/", parts.first, "/aliases/", parts.second);
}

absl::StatusOr<std::string> ServedName(absl::string_view typed) {
  if (auto alias = AliasName(typed); alias.ok()) return alias;
  return ModelOrVersionName(typed);
}

absl::StatusOr<std::string> ModelOrVersionName(absl::string_view typed) {
  const bool has_version = absl::StrContains(typed, '@') || absl::StrContains(typed, "/versions/");
  return has_version ? VersionName(typed) : ModelName(typed);
}

std::string ShortName(absl::string_view name) {
  if (absl::StartsWith(name, "models/")) {
    const size_t aliases = name.find("/aliases/");
    if (aliases != absl::string_view::npos) {
      return absl::StrCat(name.substr(7, aliases - 7), "@", name.substr(aliases + 9));
    }
    const auto [model, version] = SplitModel(name);
    return version.empty() ? std::string(model) : absl::StrCat(model, "@", version);
  }
  return std::string(name.substr(name.find('/') + 1));
}

}  // namespace tasuki::cli
