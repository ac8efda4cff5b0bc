#include "client/cli/run.h"

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/commands.h"
#include "client/cli/interrupts.h"
#include "client/cli/session.h"
#include "client/client.h"

namespace tasuki::cli {
namespace {

// The first argument of the form `--name=`, for whose value CLI11 would take the next argument,
// whatever that is (a command, say); or "".
std::string FlagWithoutValue(int argc, char** argv) {
  for (int i = 1; i < argc && argv[i] != std::string("--"); ++i) {
    const std::string argument = argv[i];
    if (argument.starts_with("--") && argument.find('=') == argument.size() - 1) return argument;
  }
  return "";
}

// What is wrong with the command line.
std::string FaultOf(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<std::string> rest = app.remaining(/*recurse=*/true);
  const CLI::App* command = &app;
  while (!command->get_subcommands().empty()) command = command->get_subcommands().front();
  const bool missing = !command->get_subcommands([](const CLI::App*) { return true; }).empty();
  if (missing && !rest.empty() && !rest.front().starts_with("-")) {
    return "there is no command \"" + rest.front() + "\"";
  }
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::ExtrasError)) {
    return "not expected: " + absl::StrJoin(rest, " ");  // CLI11 has them in reverse
  }
  return error.get_exit_code() == 0 ? "" : error.what();  // --help, --version
}

// Never from a flag: every user of a machine can see the command lines of all.
absl::Status ReadToken(const Session& session, std::string& token) {
  if (session.token_file.empty()) {
    const char* variable = std::getenv("TASUKI_TOKEN");
    token = variable != nullptr ? variable : "";
    return absl::OkStatus();
  }
  std::ifstream file(session.token_file);
  if (!std::getline(file, token)) {
    return absl::InvalidArgumentError(
        absl::StrCat("no token can be read from ", session.token_file));
  }
  token = std::string(absl::StripAsciiWhitespace(token));
  return absl::OkStatus();
}

int RunAction(const Session& session) {
  ClientOptions options;
  options.stop = session.stop;
  options.tls_ca = session.tls_ca;
  options.tls_certificate = session.tls_certificate;
  options.tls_key = session.tls_key;
  if (absl::Status status = ReadToken(session, options.token); !status.ok()) {
    PrintError(status);
    return kUsage;
  }
  auto client = Client::Connect(session.server, options);
  if (!client.ok()) {
    PrintError(client.status());
    return kUsage;
  }
  const absl::Status status = session.action(*client);
  if (status.ok()) return kOk;
  if (session.stop.stop_requested()) {
    std::cerr << "tasuki: interrupted\n";
    return Interrupts::kExitCode;
  }
  PrintError(status);
  return kFailure;
}

int RunCommandLine(int argc, char** argv, std::stop_token stop) {
  if (const std::string flag = FlagWithoutValue(argc, argv); !flag.empty()) {
    std::cerr << "tasuki: " << flag << " has no value; give one, or leave the flag out.\n";
    return kUsage;
  }
  Session session;
  session.stop = std::move(stop);
  CLI::App app("Trains T5 text classifiers on a Tasuki server and classifies texts with them.",
               "tasuki");
  app.set_version_flag("--version", "tasuki " TASUKI_VERSION);
  app.require_subcommand(1);
  app.fallthrough();  // flags of every command may stand after it, too
  app.add_option("--server", session.server,
                 "Address of the server, HOST:PORT (default: 127.0.0.1:8500)")
      ->envname("TASUKI_SERVER");
  app.add_option("--tls-ca,--tls_ca", session.tls_ca,
                 "PEM file of who signs the server's certificate: the connection uses TLS")
      ->envname("TASUKI_TLS_CA");
  app.add_option("--tls-certificate,--tls_certificate", session.tls_certificate,
                 "PEM file of a certificate of yours, for a server that asks for one")
      ->envname("TASUKI_TLS_CERTIFICATE");
  app.add_option("--tls-key,--tls_key", session.tls_key,
                 "PEM file of that certificate's private key")
      ->envname("TASUKI_TLS_KEY");
  app.add_option("--token-file,--token_file", session.token_file,
                 "File whose first line is your token; without it the variable TASUKI_TOKEN is one")
      ->envname("TASUKI_TOKEN_FILE");
  app.add_option("--output", session.output,
                 "table for people (default), or json: one document, of streams one a line")
      ->check(CLI::IsMember({"table", "json"}));
  AddDatasetCommands(app, session);
  AddJobCommands(app, session);
  AddModelCommands(app, session);
  AddAliasCommands(app, session);
  AddClassifyCommand(app, session);
  AddServerCommands(app, session);
  AddTokenCommands(app, session);
  app.footer(  // after the commands, which would take it over
      "Names may be short: nightly for trainingJobs/nightly, reviews@3 for "
      "models/reviews/versions/3,\n"
      "reviews@production for models/reviews/aliases/production.\n"
      "Exit code: 0 if what was asked for happened, 1 if not, 2 for a wrong command line, 130 if "
      "interrupted.\n"
      "Example: tasuki job submit --file job.yaml --wait");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const std::string fault = FaultOf(app, error);
    if (fault.empty()) return app.exit(error);
    std::cerr << "tasuki: " << fault << "\nTry --help after the command.\n";
    return kUsage;
  }
  return RunAction(session);
}

}  // namespace

int Run(int argc, char** argv, std::stop_token stop) {
  const int code = RunCommandLine(argc, argv, std::move(stop));
  if (std::cout.flush() || code != kOk) return code;
  std::cerr << "tasuki: the output cannot be written\n";
  return kFailure;
}

}  // namespace tasuki::cli
