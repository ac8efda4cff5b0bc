// Parts of `tasuki job`: submitting and watching, and how a job is shown.
#pragma once

#include <CLI/App.hpp>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/session.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki::cli {

void AddSubmitCommand(CLI::App& job, Session& session);
void AddWatchCommand(CLI::App& job, Session& session);
void AddEstimateCommand(CLI::App& job, Session& session);

// A job in words on stdout, with the tables of its final evaluations and calibrations.
void PrintJob(const v1::TrainingJob& job);
// These tables alone.
void PrintFigures(const v1::TrainingJob& job);

// Follows a new job to its end, showing what happens, and its figures; answers it as it ended. An
// error unless it succeeded. With --output json the job as it ended is all that is printed.
absl::StatusOr<v1::TrainingJob> AwaitJob(Client& client, const Session& session,
                                         const v1::TrainingJob& job);

// The jobs as a ListTrainingJobsResponse.
absl::Status PrintJobsJson(const std::vector<v1::TrainingJob>& jobs);

}  // namespace tasuki::cli
