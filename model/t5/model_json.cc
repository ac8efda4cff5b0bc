#include "model/t5/model_json.h"

#include <filesystem>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"

namespace tasuki {

using nlohmann::json;

absl::Status ModelInvalid(absl::string_view file, absl::string_view cause) {
  return MakeError(absl::StatusCode::kInvalidArgument, v1::MODEL_INVALID,
                   absl::StrCat(file, ": ", cause), {{"file", std::string(file)}});
}

absl::StatusOr<json> ReadModelJson(const std::string& path, size_t max_bytes) {
  const std::string file = std::filesystem::path(path).filename().string();
  absl::StatusOr<std::string> text = ReadFile(path, max_bytes);
  if (absl::IsNotFound(text.status())) return ModelInvalid(file, "the file is missing");
  if (absl::IsInvalidArgument(text.status())) {
    return ModelInvalid(file, absl::StrCat("longer than ", max_bytes, " bytes"));
  }
  if (!text.ok()) return text.status();

  // The library keeps the last of two equal keys and has no limit on depth.
  constexpr int kMaxDepth = 16;
  std::vector<std::set<std::string>> keys;
  std::string fault;
  const auto check = [&](int depth, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key &&
        !keys.back().insert(parsed.get<std::string>()).second) {
      fault = "a key is there twice";
    }
    if (depth > kMaxDepth) fault = "nested too deep";
    return depth <= kMaxDepth;
  };
  json document = json::parse(*text, check, /*allow_exceptions=*/false);
  if (document.is_discarded()) return ModelInvalid(file, "not JSON");
  if (!fault.empty()) return ModelInvalid(file, fault);
  if (!document.is_object()) return ModelInvalid(file, "not a JSON object");
  return document;
}

}  // namespace tasuki
