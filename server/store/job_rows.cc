#include "server/store/job_rows.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/errors/status_proto.h"
#include "server/store/job_state.h"
#include "server/store/job_table.h"
#include "server/store/rows.h"
#include "server/store/sessions.h"

namespace tasuki {
namespace {

using Job = v1::TrainingJob;
using Event = v1::TrainingJobEvent;

// The datasets and the model version that a job works with.
std::set<std::string> ReferencesOf(const Job& job) {
  std::set<std::string> names = DatasetsOf(job);
  names.insert({job.fine_tuning().base_model_version(), job.evaluation().model_version()});
  names.erase("");
  return names;
}

void AppendEvent(soci::session& sql, Job& job, Event event) {
  event.set_sequence(job.last_sequence() + 1);
  if (event.attempt() == 0) event.set_attempt(job.attempt());
  *event.mutable_create_time() = job.update_time();
  const std::string json = ToJson(event);
  const long long sequence = event.sequence();
  sql << "INSERT INTO job_events (job, sequence, message) VALUES (:job, :sequence, :message)",
      soci::use(job.name()), soci::use(sequence), soci::use(json);
  job.set_last_sequence(sequence);
}

}  // namespace

absl::StatusOr<JobRow> FindJob(soci::session& sql, const std::string& name) {
  JobRow row;
  std::string json;
  sql << "SELECT seq, message FROM jobs WHERE name = :name", soci::use(name), soci::into(row.seq),
      soci::into(json);
  if (!sql.got_data()) return NoSuch(name);
  FromJson(json, row.job);
  return row;
}

JobRow ReadRow(const soci::row& columns) {
  JobRow row{std::stoll(columns.get<std::string>(0)), {}};
  try {
    FromJson(columns.get<std::string>(1), row.job);
  } catch (const std::runtime_error&) {  // DamagedRow, NewerRow
    row.job.Clear();
    row.job.set_name(columns.get<std::string>(2));
    row.job.set_state(static_cast<Job::State>(std::stoi(columns.get<std::string>(3))));
    *row.job.mutable_error() = StatusProto(StatusOfException());
  }
  return row;
}

void SetQueuePosition(soci::session& sql, JobRow& row) {
  row.job.clear_queue_position();
  if (row.job.state() != Job::QUEUED) return;
  int before = 0;
  sql << absl::StrCat("SELECT COUNT(*) FROM jobs WHERE state = ", Job::QUEUED, " AND seq < :seq"),
      soci::use(row.seq), soci::into(before);
  row.job.set_queue_position(before);
}

absl::Status AddReferences(soci::session& sql, const Job& job) {
  for (const std::string& name : ReferencesOf(job)) {
    if (!Exists(sql, name)) {
      return MakeError(absl::StatusCode::kNotFound, v1::RESOURCE_NOT_FOUND,
                       absl::StrCat(name, " was deleted in the meantime: choose another"),
                       {{"resource", name}});
    }
    sql << "INSERT INTO job_references (job, name) VALUES (:job, :name)", soci::use(job.name()),
        soci::use(name);
  }
  return absl::OkStatus();
}

void SaveJob(soci::session& sql, Job& job, const std::vector<Event>& events) {
  *job.mutable_update_time() = Now();
  if (HasEnded(job.state()) && !job.has_end_time()) *job.mutable_end_time() = job.update_time();
  job.clear_queue_position();
  for (const Event& event : events) AppendEvent(sql, job, event);
  const std::string json = ToJson(job);
  const int state = job.state();
  sql << "UPDATE jobs SET state = :state, message = :message WHERE name = :name", soci::use(state),
      soci::use(json), soci::use(job.name());
}

}  // namespace tasuki
