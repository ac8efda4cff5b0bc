#include "client/cli/job_file.h"

#include <google/protobuf/util/json_util.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "client/cli/names.h"

namespace tasuki::cli {
namespace {

// Enough for any job; a file of aliases upon aliases is stopped here.
constexpr int kMaxDepth = 32;
constexpr int kMaxNodes = 100'000;
constexpr int kMaxFaults = 20;  // of values, named at once

// YAML → JSON in which every scalar is a string. Remembers on which line each path begins and
// collects all faults.
class Converter {
 public:
  Converter(absl::string_view file, const Variables& variables)
      : file_(file), variables_(variables) {}

  nlohmann::json Convert(const YAML::Node& node, const std::string& path, int depth = 0) {
    lines_.try_emplace(path, node.Mark().line + 1);
    if (depth > kMaxDepth || ++nodes_ > kMaxNodes) {
      if (!too_large_) Fault(node, "the file is nested too deeply or too large for a job");
      too_large_ = true;
      return nullptr;
    }
    if (node.IsScalar()) return Substitute(node);
    if (node.IsMap()) return ConvertMap(node, path, depth);
    if (!node.IsSequence()) return nullptr;
    nlohmann::json list = nlohmann::json::array();
    for (size_t i = 0; i < node.size(); ++i) {
      if (node[i].IsNull()) Fault(node, absl::StrCat(path, " has an empty entry"));
      list.push_back(Convert(node[i], absl::StrCat(path, "[", i, "]"), depth + 1));
    }
    return list;
  }

  // The line of a path, or of the nearest one around it.
  int LineOf(std::string path) const {
    while (true) {
      if (const auto line = lines_.find(path); line != lines_.end()) return line->second;
      const size_t cut = path.find_last_of(".[");
      if (cut == std::string::npos) return 1;
      path.resize(cut);
    }
  }

  void FaultAt(int line, absl::string_view fault) {
    faults_.push_back(absl::StrCat(file_, ":", line, ": ", fault));
  }

  absl::Status status() const {
    if (faults_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrJoin(faults_, "\n"));
  }

 private:
  nlohmann::json ConvertMap(const YAML::Node& node, const std::string& path, int depth) {
    nlohmann::json object = nlohmann::json::object();
    for (const auto& entry : node) {
      if (!entry.first.IsScalar()) {
        Fault(entry.first, "a key must be the name of a field");
        continue;
      }
      const std::string& key = entry.first.Scalar();
      const std::string child = path.empty() ? key : absl::StrCat(path, ".", key);
      lines_.try_emplace(child, entry.first.Mark().line + 1);
      if (std::any_of(key.begin(), key.end(), [](char c) { return c >= 'A' && c <= 'Z'; })) {
        Fault(entry.first,
              absl::StrCat(child, ": fields are written in lower case, as in base_model_version"));
      }
      if (object.contains(key))
        Fault(entry.first, absl::StrCat(child, " stands here a second time"));
      object[key] = Convert(entry.second, child, depth + 1);
    }
    return object;
  }

  std::string Substitute(const YAML::Node& node) {
    static const std::regex variable(R"((\$?)\$\{([^}]*)(\}?))");
    static const std::regex name(R"([A-Za-z_][A-Za-z0-9_]*)");
    const std::string& text = node.Scalar();
    std::string result;
    auto from = text.begin();
    for (std::sregex_iterator match(text.begin(), text.end(), variable), end; match != end;
         ++match) {
      result.append(from, (*match)[0].first);
      from = (*match)[0].second;
      const std::string variable_name = (*match)[2];
      if ((*match)[1].length() > 0) {
        result += match->str().substr(1);
      } else if (!std::regex_match(variable_name, name) || (*match)[3].length() == 0) {
        Fault(node, absl::StrCat("\"", match->str(), "\" is not a variable of the form ${NAME}"));
      } else if (const auto value = variables_(variable_name)) {
        result += *value;
      } else {
        Fault(node, absl::StrCat("the variable ", variable_name, " is not defined; give --set ",
                                 variable_name, "=VALUE or set it in the environment"));
      }
    }
    result.append(from, text.end());
    return result;
  }

  void Fault(const YAML::Node& node, absl::string_view fault) {
    FaultAt(node.Mark().line + 1, fault);
  }

  const std::string file_;
  const Variables& variables_;
  std::map<std::string, int> lines_;
  std::vector<std::string> faults_;
  int nodes_ = 0;
  bool too_large_ = false;
};

// The message type at a path such as "fine_tuning.tasks[1]".
const google::protobuf::Descriptor* TypeAt(absl::string_view path) {
  const google::protobuf::Descriptor* type = v1::TrainingJob::descriptor();
  for (const absl::string_view step : absl::StrSplit(path, '.', absl::SkipEmpty())) {
    const auto* field = type->FindFieldByName(std::string(step.substr(0, step.find('['))));
    if (field == nullptr || field->message_type() == nullptr) return nullptr;
    type = field->message_type();
  }
  return type;
}

// What a value of the type should be; `type` is as protobuf's parser names it.
std::string Wanted(const std::string& type) {
  const auto* pool = google::protobuf::DescriptorPool::generated_pool();
  if (const auto* values = pool->FindEnumTypeByName(type)) {
    std::vector<std::string> names;
    for (int i = 1; i < values->value_count(); ++i) names.push_back(values->value(i)->name());
    return absl::StrCat("one of ", absl::StrJoin(names, ", "));
  }
  if (type == "google.protobuf.Duration") return "a time in seconds, such as 3600s";
  if (const auto* message = pool->FindMessageTypeByName(type)) {
    return absl::StrCat("a ", message->name(), ", which is a map of fields");
  }
  if (absl::StrContains(type, "INT")) return "a whole number that fits";
  return absl::StrContains(type, "DOUBLE") ? "a number" : type;
}

// Says in our words, and with the line, what protobuf's parser says as "(path): invalid value …" or
// "(path) name: Cannot find field.". Answers the path at fault; empty if it is not known.
std::string AddParserFault(const std::string& message, Converter& converter) {
  static const std::regex unknown_field(R"((?:\(([^)]*)\) )?:? ?(\w+): Cannot find field\.)");
  static const std::regex bad_value(R"(\(([^)]*)\): invalid value (.*) for type ([\w./]+))");
  std::smatch match;
  if (std::regex_match(message, match, unknown_field)) {
    const std::string parent = match[1];
    const std::string path = absl::StrCat(parent, parent.empty() ? "" : ".", match.str(2));
    std::string fault = absl::StrCat(path, " is not a field");
    if (const auto* type = TypeAt(parent)) {
      std::vector<std::string> names;
      for (int i = 0; i < type->field_count(); ++i) names.push_back(type->field(i)->name());
      absl::StrAppend(&fault, " of ", type->name(), ", which has ", absl::StrJoin(names, ", "));
    }
    converter.FaultAt(converter.LineOf(path), fault);
    return path;
  }
  if (std::regex_match(message, match, bad_value)) {
    const std::string type = match.str(3).substr(match.str(3).rfind('/') + 1);
    converter.FaultAt(converter.LineOf(match[1]),
                      absl::StrCat(match.str(1), ": ", match.str(2), " is not ", Wanted(type)));
    return match[1];
  }
  converter.FaultAt(1, message);
  return "";
}

// Takes what is at `path` ("fine_tuning.tasks[1].weight") out; an entry of a list becomes empty.
// False if nothing is there.
bool TakeOut(nlohmann::json& json, const std::string& path) {
  const nlohmann::json::json_pointer at(
      absl::StrCat("/", absl::StrReplaceAll(path, {{".", "/"}, {"[", "/"}, {"]", ""}})));
  if (path.empty() || !json.contains(at)) return false;
  nlohmann::json& parent = json[at.parent_pointer()];
  if (parent.is_object()) return parent.erase(at.back()) > 0;
  return std::exchange(json[at], nlohmann::json::object()) != nlohmann::json::object();
}

// Makes short names full. What is no name is left as it is: the server names it with all other
// faults.
void CompleteNames(v1::TrainingJob& job) {
  const auto complete = [](std::string* name, auto rule) {
    if (const auto full = rule(*name); full.ok()) *name = *full;
  };
  if (!job.model().empty()) complete(job.mutable_model(), ModelName);
  if (job.has_pretraining()) {
    for (std::string& name : *job.mutable_pretraining()->mutable_datasets()) {
      complete(&name, DatasetName);
    }
  }
  if (job.has_fine_tuning()) {
    complete(job.mutable_fine_tuning()->mutable_base_model_version(), ModelOrVersionName);
    for (v1::Task& task : *job.mutable_fine_tuning()->mutable_tasks()) {
      complete(task.mutable_train_dataset(), DatasetName);
      complete(task.mutable_valid_dataset(), DatasetName);
      complete(task.mutable_test_dataset(), DatasetName);
    }
  }
  if (job.has_evaluation()) {
    complete(job.mutable_evaluation()->mutable_model_version(), ModelOrVersionName);
    for (v1::Task& task : *job.mutable_evaluation()->mutable_tasks()) {
      complete(task.mutable_test_dataset(), DatasetName);
    }
  }
}

}  // namespace

absl::StatusOr<v1::TrainingJob> ParseJob(absl::string_view path, const std::string& text,
                                         const Variables& variables) {
  Converter converter(path, variables);
  nlohmann::json json;
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.size() != 1 || !documents[0].IsMap()) {
      converter.FaultAt(1, "the file must hold one job, a map of the fields of TrainingJob");
      return converter.status();
    }
    json = converter.Convert(documents[0], "");
    static_cast<void>(json.dump());
  } catch (const YAML::Exception& error) {
    converter.FaultAt(error.mark.line + 1, absl::StrCat("not valid YAML: ", error.msg));
  } catch (const nlohmann::json::exception&) {
    converter.FaultAt(1, "the file is not UTF-8");
  }
  if (absl::Status status = converter.status(); !status.ok()) return status;

  v1::TrainingJob job;
  google::protobuf::util::JsonParseOptions options;
  options.case_insensitive_enum_parsing = true;
  // The parser names one fault: the rest is parsed again without it.
  for (int i = 0; i < kMaxFaults; ++i) {
    job.Clear();
    const auto parsed = google::protobuf::util::JsonStringToMessage(json.dump(), &job, options);
    if (parsed.ok() || !TakeOut(json, AddParserFault(std::string(parsed.message()), converter))) {
      break;
    }
  }
  if (absl::Status status = converter.status(); !status.ok()) return status;
  CompleteNames(job);
  return job;
}

absl::StatusOr<v1::TrainingJob> ReadJobFile(const std::string& path,
                                            const std::map<std::string, std::string>& set) {
  std::ifstream file(path, std::ios::binary);
  std::string text;
  for (char c; file.get(c);) text += c;  // a failed read, as of a directory, sets bad
  if (!file.is_open() || file.bad()) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
  }
  std::set<std::string> used;
  auto job = ParseJob(path, text, [&](const std::string& name) -> std::optional<std::string> {
    used.insert(name);
    if (const auto value = set.find(name); value != set.end()) return value->second;
    const char* value = std::getenv(name.c_str());
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  });
  if (!job.ok()) return job;
  for (const auto& [name, value] : set) {
    if (!used.contains(name)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--set ", name, "=", value, ": ", path, " has no ${", name, "}"));
    }
  }
  return job;
}

absl::StatusOr<std::map<std::string, std::string>> VariablesOf(
    const std::vector<std::string>& assignments) {
  std::map<std::string, std::string> variables;
  for (const std::string& assignment : assignments) {
    const size_t equals = assignment.find('=');
    if (equals == std::string::npos || equals == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("--set ", assignment, " is not of the form NAME=VALUE"));
    }
    variables[assignment.substr(0, equals)] = assignment.substr(equals + 1);
  }
  return variables;
}

}  // namespace tasuki::cli
