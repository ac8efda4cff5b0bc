// Parts of `tasuki job`: submitting and watching, and how a job is shown.
#pragma once

#include <CLI/App.hpp>
#include <vector>

#include "absl/status/status.h"
#include "client/cli/session.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki::cli {

void AddSubmitCommand(CLI::App& job, Session& session);
void AddWatchCommand(CLI::App& job, Session& session);
void AddEstimateCommand(CLI::App& job, Session& session);

// A job in words on stdout, with the table of its final evaluations.
void PrintJob(const v1::TrainingJob& job);

// The jobs as a ListTrainingJobsResponse.
absl::Status PrintJobsJson(const std::vector<v1::TrainingJob>& jobs);

}  // namespace tasuki::cli
