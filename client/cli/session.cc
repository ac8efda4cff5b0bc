#include "client/cli/session.h"

#include <google/protobuf/util/json_util.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <iostream>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "client/cli/text.h"
#include "client/cli/watch_view.h"
#include "client/errors.h"

namespace tasuki::cli {
namespace {

absl::StatusOr<std::string> ToJson(const google::protobuf::Message& message, bool pretty) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = pretty;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string json;
  const auto printed = google::protobuf::util::MessageToJsonString(message, &json, options);
  if (!printed.ok()) {
    return absl::InternalError(
        absl::StrCat("the answer cannot be written as JSON: ", std::string(printed.message())));
  }
  return json;
}

// Written out, so that a full disk or a closed pipe is an error and not a lost line.
absl::Status Print(absl::string_view text) {
  std::cout << text << std::flush;
  return std::cout ? absl::OkStatus() : absl::DataLossError("the output cannot be written");
}

// Keeps line ends: the end of a trainer's log is in a job's error.
std::string PrintableLines(absl::string_view text) {
  std::string lines;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    absl::StrAppend(&lines, lines.empty() ? "" : "\n", Printable(line));
  }
  return lines;
}

}  // namespace

void Session::Bind(CLI::App* command, std::function<absl::Status(Client&)> what) {
  command->callback([this, what = std::move(what)] { action = what; });
}

absl::Status PrintJson(const google::protobuf::Message& message) {
  const auto json = ToJson(message, true);
  return json.ok() ? Print(*json) : json.status();
}

absl::Status PrintJsonLine(const google::protobuf::Message& message) {
  const auto json = ToJson(message, false);
  return json.ok() ? Print(absl::StrCat(*json, "\n")) : json.status();
}

absl::StatusOr<std::string> JsonLine(const google::protobuf::Message& message) {
  return ToJson(message, false);
}

void PrintError(const absl::Status& status) {
  const auto faults = FieldFaultsOf(status);
  if (faults.empty()) {
    std::cerr << "tasuki: " << PrintableLines(status.message()) << "\n";
  } else {
    std::cerr << "tasuki: the server refused the request:\n";
    for (const FieldFault& fault : faults) {
      std::cerr << "  " << Printable(fault.field) << ": " << Printable(fault.description) << "\n";
    }
    // The message repeats the faults and may end with what did not fit.
    const size_t last = status.message().rfind("; and ");
    if (last != absl::string_view::npos && absl::EndsWith(status.message(), " more")) {
      std::cerr << "  " << Printable(status.message().substr(last + 2)) << "\n";
    }
  }
  const v1::ErrorReason reason = ReasonOf(status);
  std::cerr << "  (" << absl::StatusCodeToString(status.code());
  if (reason != v1::ERROR_REASON_UNSPECIFIED) std::cerr << ", " << v1::ErrorReason_Name(reason);
  std::cerr << ")\n";
}

CLI::Validator Typed(absl::StatusOr<std::string> (*rule)(absl::string_view)) {
  return CLI::Validator(
      [rule](std::string& value) -> std::string {
        const auto name = rule(value);
        if (!name.ok()) return std::string(name.status().message());
        value = *name;
        return "";
      },
      "");
}

bool IsTerminal(int descriptor) { return isatty(descriptor) == 1; }

int TerminalColumns(int descriptor) {
  winsize size{};
  return ioctl(descriptor, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

TransferProgress ShowTransfer(const std::string& what) {
  if (!IsTerminal(STDERR_FILENO)) return nullptr;
  auto drawn = std::make_shared<absl::Time>(absl::InfinitePast());
  return [what, drawn](int64_t done, int64_t total) {
    const bool ended = done == total;
    if (!ended && absl::Now() - *drawn < absl::Milliseconds(100)) return;
    *drawn = absl::Now();
    std::cerr << "\r\x1b[K";
    if (ended) return;  // the answer follows
    const double share = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 0;
    std::cerr << what << " " << (total > 0 ? Bar(share, 30) + " " : "") << Bytes(done);
    if (total > 0) std::cerr << " of " << Bytes(total);
    std::cerr << std::flush;
  };
}

}  // namespace tasuki::cli
