#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/commands.h"
#include "client/cli/names.h"
#include "client/cli/table.h"
#include "client/cli/text.h"

namespace tasuki::cli {

void AddServerCommands(CLI::App& app, Session& session) {
  CLI::App* server = app.add_subcommand("server", "The server itself")->require_subcommand(1);
  CLI::App* info = server->add_subcommand("info", "Shows what runs and what is loaded")
                       ->footer("Example: tasuki server info");
  session.Bind(info, [&session](Client& client) -> absl::Status {
    const auto answer = client.GetServerInfo();
    if (!answer.ok()) return answer.status();
    if (session.json()) return PrintJson(*answer);
    const auto loaded = absl::StrJoin(
        answer->loaded_model_versions(), ", ",
        [](std::string* out, const std::string& name) { absl::StrAppend(out, ShortName(name)); });
    std::cout << Details({{"server", session.server},
                          {"version", answer->version()},
                          {"started", DateTime(answer->start_time())},
                          {"device", answer->device()},
                          {"serving precision", answer->serving_precision()},
                          {"serving kernels", answer->serving_kernels()},
                          {"serving threads", absl::StrCat(answer->serving_threads())},
                          {"training kernels", answer->training_kernels()},
                          {"training threads", absl::StrCat(answer->training_threads())},
                          {"LibTorch", answer->libtorch_version()},
                          {"store", answer->store()},
                          {"loaded models", loaded.empty() ? "none" : loaded}});
    return absl::OkStatus();
  });

  CLI::App* health =
      server->add_subcommand("health", "Exits with 0 if the server serves, with 1 if not")
          ->footer(
              "Needs no token, and may ask the address of --health_listen.\n"
              "Example: tasuki --server 127.0.0.1:8501 server health");
  session.Bind(health, [&session](Client& client) -> absl::Status {
    if (absl::Status status = client.CheckHealth(); !status.ok()) return status;
    std::cout << (session.json() ? "{\"status\": \"SERVING\"}\n" : "serving\n");
    return absl::OkStatus();
  });
}

}  // namespace tasuki::cli
