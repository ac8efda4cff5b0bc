// Training jobs and their events in the store. Part of Store; thread-safe.
//
// A job's row and its events change in one transaction. The store numbers the events and keeps the
// job's last_sequence and update_time, start_time and end_time (if not set), and the events'
// create_time and attempt (if not set). A trainer's attempt number is the fence: a change that
// names another attempt than the row's changes nothing.
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "server/store/store.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

// The datasets that a job works with.
std::set<std::string> DatasetsOf(const v1::TrainingJob& job);

// One transaction on a job: checked, applied, and its events appended.
struct JobChange {
  // The states the job must be in; otherwise FAILED_PRECONDITION, JOB_STATE.
  std::vector<v1::TrainingJob::State> expected;
  // The attempt that makes the change; otherwise ABORTED. Unset: a change by the server itself.
  std::optional<int> fence;
  // Changes the job; may append events. Called once, inside the transaction, with the writer's lock
  // held: no store calls from here, and nothing slow.
  std::function<void(v1::TrainingJob& job, std::vector<v1::TrainingJobEvent>& events)> apply;
};

class JobTable {
 public:
  explicit JobTable(Store& store) : store_(store) {}

  // Inserts a job with its first event. NOT_FOUND, RESOURCE_NOT_FOUND if a dataset or model version
  // that it names is not there (any more). If `request_id` is not empty and known:
  // the job it made, if `request_digest` is the same, otherwise ALREADY_EXISTS, REQUEST_ID_REUSED.
  // ALREADY_EXISTS, RESOURCE_EXISTS if the name is taken.
  absl::StatusOr<v1::TrainingJob> Insert(const v1::TrainingJob& job, const std::string& request_id,
                                         const std::string& request_digest,
                                         const v1::TrainingJobEvent& first_event);
  // NOT_FOUND, RESOURCE_NOT_FOUND. `queue_position` is filled in for a queued job.
  absl::StatusOr<v1::TrainingJob> Get(const std::string& name);
  // The job that `request_id` made, if there is one.
  absl::StatusOr<std::optional<v1::TrainingJob>> FindByRequestId(const std::string& request_id,
                                                                 const std::string& request_digest);
  // Newest first; `states` empty for all. With queue positions. A job that cannot be read has its
  // name, its state, and why as its error.
  absl::StatusOr<Page<v1::TrainingJob>> List(const std::vector<v1::TrainingJob::State>& states,
                                             int page_size, const std::string& page_token);
  // Answers the job as it is afterwards.
  absl::StatusOr<v1::TrainingJob> Change(const std::string& name, const JobChange& change);
  // Oldest queued job → RUNNING, attempt + 1, with its event; nullopt if none is queued.
  // Those that cannot be read stay where they are; they are added to `unreadable` as List has them.
  absl::StatusOr<std::optional<v1::TrainingJob>> ClaimOldestQueued(
      std::vector<v1::TrainingJob>* unreadable = nullptr);
  // Jobs in these states, oldest first.
  absl::StatusOr<std::vector<v1::TrainingJob>> InStates(
      const std::vector<v1::TrainingJob::State>& states);
  // Number of jobs by state.
  absl::StatusOr<std::vector<std::pair<v1::TrainingJob::State, int64_t>>> CountByState();
  // Events from `from_sequence` on, at most `limit`. Empty if there are none (yet).
  absl::StatusOr<std::vector<v1::TrainingJobEvent>> ReadEvents(const std::string& name,
                                                               int64_t from_sequence, int limit);
  // Deletes an ended job (or a waiting one that cannot be read), its events, and what was reserved
  // under its name; the version that it published stays. FAILED_PRECONDITION, JOB_STATE otherwise;
  // NOT_FOUND.
  absl::Status Delete(const std::string& name);

 private:
  Store& store_;
};

}  // namespace tasuki
