// Parts of `tasuki dataset`: how a dataset is shown, and `inspect`.
#pragma once

#include <CLI/App.hpp>
#include <string>

#include "client/cli/session.h"
#include "tasuki/v1/datasets.pb.h"

namespace tasuki::cli {

// "positive: 1,200; negative: 300".
std::string LabelsOf(const v1::Dataset& dataset);

// A dataset in words on stdout.
void PrintDataset(const v1::Dataset& dataset);

void AddInspectCommand(CLI::App& dataset, Session& session);

}  // namespace tasuki::cli
