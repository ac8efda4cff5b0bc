// What the commands of one invocation share: how to reach the server and how to answer.
// Thread-compatible.
#pragma once

#include <google/protobuf/message.h>

#include <CLI/App.hpp>
#include <functional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/client.h"

namespace tasuki::cli {

struct Session {
  // Flags of every command.
  std::string server = "127.0.0.1:8500";
  std::string output = "table";
  std::string tls_ca, tls_certificate, tls_key;
  std::string token_file;

  // Requested at Ctrl-C.
  std::stop_token stop;

  // What the chosen command does, set while the command line is parsed. OK only if what was asked
  // for happened.
  std::function<absl::Status(Client&)> action;

  bool json() const { return output == "json"; }

  // Makes `action` what `command` does.
  void Bind(CLI::App* command, std::function<absl::Status(Client&)> what);
};

// The one document of --output json: proto JSON with the proto's field names and default values.
absl::Status PrintJson(const google::protobuf::Message& message);
// The same on one line, for streams.
absl::Status PrintJsonLine(const google::protobuf::Message& message);
absl::StatusOr<std::string> JsonLine(const google::protobuf::Message& message);

// Writes an error to stderr: the sentence, the faults one a line, code and reason.
void PrintError(const absl::Status& status);

// A rule of client/cli/names.h as a check of an option, whose value it replaces: a name of a wrong
// form is a fault of usage.
CLI::Validator Typed(absl::StatusOr<std::string> (*rule)(absl::string_view));

// Whether `descriptor` (1, 2) is a terminal, and its columns (0 if it does not say).
bool IsTerminal(int descriptor);
int TerminalColumns(int descriptor);

// Shows on stderr how far a transfer is, if that is a terminal; otherwise nothing.
TransferProgress ShowTransfer(const std::string& what);

}  // namespace tasuki::cli
