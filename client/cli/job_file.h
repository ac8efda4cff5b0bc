// Reads the file of `tasuki job submit`: a TrainingJob in YAML or JSON, spelled with the field
// names of tasuki/v1/training.proto. Functions of values: any thread.
//
// Every scalar is text until the proto says what it is, so that a label written 0 or no stays that.
// `${NAME}` in a scalar stands for a variable and `$${` for the characters `${`. Resource names may
// be as short as on the command line.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki::cli {

// Answers the value of a variable, or nothing if it is not defined.
using Variables = std::function<std::optional<std::string>(const std::string& name)>;

// Parses the text of a job file. `path` is what errors call it. INVALID_ARGUMENT, with a line for
// every fault and its line number: not YAML, keys twice, unknown fields, values of a wrong type,
// undefined variables.
absl::StatusOr<v1::TrainingJob> ParseJob(absl::string_view path, const std::string& text,
                                         const Variables& variables);

// Reads the file at `path`; variables come from `set` and then from the environment.
// INVALID_ARGUMENT also if the file does not ask for a variable of `set`.
absl::StatusOr<v1::TrainingJob> ReadJobFile(const std::string& path,
                                            const std::map<std::string, std::string>& set);

// Variables of `--set NAME=VALUE`, each as it was typed. INVALID_ARGUMENT.
absl::StatusOr<std::map<std::string, std::string>> VariablesOf(
    const std::vector<std::string>& assignments);

}  // namespace tasuki::cli
