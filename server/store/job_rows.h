// Rows of the job tables. Private to server/store. The functions run inside a transaction and may
// throw.
#pragma once

#include <soci/soci.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

// A job with its place in the order of creation.
struct JobRow {
  long long seq = 0;
  v1::TrainingJob job;
};

// NOT_FOUND. Without `queue_position`.
absl::StatusOr<JobRow> FindJob(soci::session& sql, const std::string& name);

// The row of `SELECT kJobColumns FROM jobs`. A job that cannot be read has its name, its state, and
// why as its error.
inline constexpr char kJobColumns[] = "CAST(seq AS TEXT), message, name, CAST(state AS TEXT)";
JobRow ReadRow(const soci::row& columns);

// Sets `queue_position` of a queued job: what was created before it goes first.
void SetQueuePosition(soci::session& sql, JobRow& row);

// Stores what a new job works with, so that it is not deleted under it; NOT_FOUND,
// RESOURCE_NOT_FOUND, if a part is not there.
absl::Status AddReferences(soci::session& sql, const v1::TrainingJob& job);

// Writes a changed job, whose row is there, and appends its new events; sets the job's update_time,
// last_sequence, and end_time if it has ended.
void SaveJob(soci::session& sql, v1::TrainingJob& job,
             const std::vector<v1::TrainingJobEvent>& events);

}  // namespace tasuki
