// The commands by noun. Each function adds its commands to the program; `session` must outlive it.
#pragma once

#include <CLI/App.hpp>

#include "client/cli/session.h"

namespace tasuki::cli {

void AddDatasetCommands(CLI::App& app, Session& session);
void AddJobCommands(CLI::App& app, Session& session);
void AddModelCommands(CLI::App& app, Session& session);
void AddAliasCommands(CLI::App& app, Session& session);
void AddClassifyCommand(CLI::App& app, Session& session);
void AddServerCommands(CLI::App& app, Session& session);
void AddTokenCommands(CLI::App& app, Session& session);

}  // namespace tasuki::cli
