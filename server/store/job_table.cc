#include "server/store/job_table.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "google/protobuf/util/time_util.h"
#include "google/rpc/error_details.pb.h"
#include "model/errors/errors.h"
#include "server/store/job_rows.h"
#include "server/store/job_state.h"
#include "server/store/paging.h"
#include "server/store/rows.h"
#include "server/store/sessions.h"

namespace tasuki {
namespace {

using Job = v1::TrainingJob;
using Event = v1::TrainingJobEvent;
using google::protobuf::Timestamp;

constexpr char kRead[] = "read_jobs";
constexpr char kWrite[] = "write_jobs";
constexpr char kClaim[] = "claim_job";
constexpr char kReadEvents[] = "read_events";

absl::StatusOr<std::optional<Job>> FindRequest(soci::session& sql, const std::string& request_id,
                                               const std::string& digest) {
  if (request_id.empty()) return std::nullopt;
  std::string name;
  std::string known_digest;
  sql << "SELECT name, request_digest FROM jobs WHERE request_id = :request_id",
      soci::use(request_id), soci::into(name), soci::into(known_digest);
  if (!sql.got_data()) return std::nullopt;
  if (known_digest != digest) {
    return MakeError(
        absl::StatusCode::kAlreadyExists, v1::REQUEST_ID_REUSED,
        absl::StrCat("request_id ", Quote(request_id),
                     " came before with another request (it made ", name, "): use a new one"),
        {{"resource", name}});
  }
  auto row = FindJob(sql, name);
  if (!row.ok()) return row.status();
  SetQueuePosition(sql, *row);
  return row->job;
}

std::string StatesIn(const std::vector<Job::State>& states) {
  return absl::StrCat("state IN (", absl::StrJoin(states, ", "), ")");
}

absl::Duration Between(const Timestamp& begin, const Timestamp& end) {
  using google::protobuf::util::TimeUtil;
  return absl::Microseconds(TimeUtil::TimestampToMicroseconds(end) -
                            TimeUtil::TimestampToMicroseconds(begin));
}

std::string ReasonOfFailure(const Job& job) {
  google::rpc::ErrorInfo info;
  for (const auto& detail : job.error().details()) {
    if (detail.UnpackTo(&info)) return info.reason();
  }
  return job.state() == Job::FAILED ? "OTHER" : "";
}

// Within the transaction, which is one at a time: a claim may follow a change at once, and must be
// the later of the two here as well.
void TellQueued(Metrics& metrics, Job::State before, const Job& job) {
  if (before == job.state()) return;
  if (job.state() == Job::QUEUED) metrics.SetQueued(job.name(), absl::Now());
  if (before == Job::QUEUED) metrics.SetQueued(job.name(), std::nullopt);
}

// After a change is on disk.
void CountChange(Metrics& metrics, Job::State before, const Job& job) {
  if (before == job.state()) return;
  metrics.ChangeJobCount(Job::State_Name(before), -1);
  metrics.ChangeJobCount(Job::State_Name(job.state()), 1);
  if (!HasEnded(job.state())) return;
  const Timestamp& start = job.has_start_time() ? job.start_time() : job.end_time();
  metrics.CountJobFinished(Job::State_Name(job.state()), ReasonOfFailure(job),
                           Between(start, job.end_time()));
}

}  // namespace

std::set<std::string> DatasetsOf(const Job& job) {
  std::set<std::string> names(job.pretraining().datasets().begin(),
                              job.pretraining().datasets().end());
  for (const v1::Task& task : job.fine_tuning().tasks()) {
    names.insert({task.train_dataset(), task.valid_dataset(), task.test_dataset()});
  }
  for (const v1::Task& task : job.evaluation().tasks()) names.insert(task.test_dataset());
  names.erase("");
  return names;
}

absl::StatusOr<Job> JobTable::Insert(const Job& job, const std::string& request_id,
                                     const std::string& request_digest, const Event& first_event) {
  bool is_new = false;
  auto inserted = store_.sessions_->Write(kWrite, [&](soci::session& sql) -> absl::StatusOr<Job> {
    auto known = FindRequest(sql, request_id, request_digest);
    if (!known.ok()) return known.status();
    if (known->has_value()) return **known;
    if (FindJob(sql, job.name()).ok()) {
      return MakeError(absl::StatusCode::kAlreadyExists, v1::RESOURCE_EXISTS,
                       absl::StrCat(job.name(), " exists already: choose another id"),
                       {{"resource", job.name()}});
    }
    JobRow row{NextValue(sql, "jobs"), job};
    if (!row.job.has_create_time()) *row.job.mutable_create_time() = Now();
    const int state = row.job.state();
    soci::indicator has_id = request_id.empty() ? soci::i_null : soci::i_ok;
    sql << "INSERT INTO jobs (name, seq, state, request_id, request_digest, message) "
           "VALUES (:name, :seq, :state, :id, :digest, '')",
        soci::use(row.job.name()), soci::use(row.seq), soci::use(state),
        soci::use(request_id, has_id), soci::use(request_digest);
    if (absl::Status status = AddReferences(sql, row.job); !status.ok()) return status;
    SaveJob(sql, row.job, {first_event});
    SetQueuePosition(sql, row);
    is_new = true;
    TellQueued(store_.sessions_->metrics(), Job::STATE_UNSPECIFIED, row.job);
    return row.job;
  });
  if (inserted.ok() && is_new) {
    store_.sessions_->metrics().CountJobCreated();
    store_.sessions_->metrics().ChangeJobCount(Job::State_Name(inserted->state()), 1);
  } else if (is_new) {  // it could not be committed
    store_.sessions_->metrics().SetQueued(job.name(), std::nullopt);
  }
  return inserted;
}

absl::StatusOr<Job> JobTable::Get(const std::string& name) {
  return store_.sessions_->Read(kRead, [&](soci::session& sql) -> absl::StatusOr<Job> {
    auto row = FindJob(sql, name);
    if (!row.ok()) return row.status();
    SetQueuePosition(sql, *row);
    return row->job;
  });
}

absl::StatusOr<std::optional<Job>> JobTable::FindByRequestId(const std::string& request_id,
                                                             const std::string& request_digest) {
  return store_.sessions_->Read(
      kRead, [&](soci::session& sql) { return FindRequest(sql, request_id, request_digest); });
}

absl::StatusOr<Page<Job>> JobTable::List(const std::vector<Job::State>& states, int page_size,
                                         const std::string& page_token) {
  const std::set<Job::State> wanted(states.begin(), states.end());
  const std::string listing = absl::StrCat("trainingJobs ", absl::StrJoin(wanted, ","));
  const auto start = StartOfPage(listing, page_size, page_token);
  if (!start.ok()) return start.status();
  return store_.sessions_->Read(kRead, [&](soci::session& sql) -> absl::StatusOr<Page<Job>> {
    const long long before = start->before();
    const size_t limit = start->size + 1;
    soci::rowset<soci::row> rows =
        (sql.prepare << absl::StrCat("SELECT ", kJobColumns, " FROM jobs WHERE ",
                                     states.empty() ? "" : StatesIn(states) + " AND ",
                                     "seq < :before ORDER BY seq DESC LIMIT :limit"),
         soci::use(before), soci::use(limit));
    // Going down the page, each queued job has one less before it than the one above.
    std::optional<int> position;
    return CutPage<Job>(listing, *start, rows, [&](const soci::row& columns) {
      JobRow row = ReadRow(columns);
      if (row.job.state() != Job::QUEUED) return row.job;
      if (position.has_value()) {
        row.job.set_queue_position(--*position);
      } else {
        SetQueuePosition(sql, row);
        position = row.job.queue_position();
      }
      return row.job;
    });
  });
}

absl::StatusOr<Job> JobTable::Change(const std::string& name, const JobChange& change) {
  Job::State before = Job::STATE_UNSPECIFIED;
  auto changed = store_.sessions_->Write(kWrite, [&](soci::session& sql) -> absl::StatusOr<Job> {
    auto row = FindJob(sql, name);
    if (!row.ok()) return row.status();
    before = row->job.state();
    if (change.fence.has_value() && *change.fence != row->job.attempt()) {
      return MakeError(absl::StatusCode::kAborted, v1::JOB_STATE,
                       absl::StrCat(name, " is at attempt ", row->job.attempt(), ", not ",
                                    *change.fence, ": the change came too late"));
    }
    if (std::find(change.expected.begin(), change.expected.end(), before) ==
        change.expected.end()) {
      return MakeError(absl::StatusCode::kFailedPrecondition, v1::JOB_STATE,
                       absl::StrCat(name, " is ", Job::State_Name(before), "; this needs ",
                                    absl::StrJoin(change.expected, " or ",
                                                  [](std::string* out, Job::State state) {
                                                    absl::StrAppend(out, Job::State_Name(state));
                                                  })),
                       {{"resource", name}, {"state", Job::State_Name(before)}});
    }
    std::vector<Event> events;
    change.apply(row->job, events);
    row->job.set_name(name);
    SaveJob(sql, row->job, events);
    SetQueuePosition(sql, *row);
    TellQueued(store_.sessions_->metrics(), before, row->job);
    return row->job;
  });
  if (changed.ok()) CountChange(store_.sessions_->metrics(), before, *changed);
  return changed;
}

absl::StatusOr<std::optional<Job>> JobTable::ClaimOldestQueued(std::vector<Job>* unreadable) {
  using Claimed = std::optional<Job>;
  auto claimed =
      store_.sessions_->Write(kClaim, [&](soci::session& sql) -> absl::StatusOr<Claimed> {
        Claimed oldest;
        {
          soci::rowset<soci::row> rows =
              (sql.prepare << absl::StrCat("SELECT ", kJobColumns, " FROM jobs WHERE state = ",
                                           Job::QUEUED, " ORDER BY seq"));
          for (auto row = rows.begin(); row != rows.end() && !oldest.has_value(); ++row) {
            Job job = ReadRow(*row).job;
            if (!job.has_error()) {
              oldest = std::move(job);
            } else if (unreadable != nullptr) {
              unreadable->push_back(std::move(job));
            }
          }
        }
        if (!oldest.has_value()) return std::nullopt;
        Job& job = *oldest;
        job.set_attempt(job.attempt() + 1);
        if (!job.has_start_time()) *job.mutable_start_time() = Now();
        std::vector<Event> events;
        EnterState(job, Job::RUNNING, "", events);
        SaveJob(sql, job, events);
        TellQueued(store_.sessions_->metrics(), Job::QUEUED, job);
        return job;
      });
  if (claimed.ok() && claimed->has_value()) {
    const Job& job = **claimed;
    CountChange(store_.sessions_->metrics(), Job::QUEUED, job);
    if (job.attempt() == 1) {
      store_.sessions_->metrics().ObserveJobQueueWait(Between(job.create_time(), job.start_time()));
    }
  }
  return claimed;
}

absl::StatusOr<std::vector<Job>> JobTable::InStates(const std::vector<Job::State>& states) {
  return store_.sessions_->Read(kRead, [&](soci::session& sql) -> absl::StatusOr<std::vector<Job>> {
    std::vector<Job> jobs;
    soci::rowset<std::string> rows =
        (sql.prepare << absl::StrCat("SELECT message FROM jobs WHERE ", StatesIn(states),
                                     " ORDER BY seq"));
    for (const std::string& json : rows) jobs.push_back(FromJson<Job>(json));
    return jobs;
  });
}

absl::StatusOr<std::vector<std::pair<Job::State, int64_t>>> JobTable::CountByState() {
  using Counts = std::vector<std::pair<Job::State, int64_t>>;
  return store_.sessions_->Read(kRead, [&](soci::session& sql) -> absl::StatusOr<Counts> {
    Counts counts;
    for (int state = Job::QUEUED; state <= Job::State_MAX; ++state) {
      long long count = 0;
      sql << "SELECT COUNT(*) FROM jobs WHERE state = :state", soci::use(state), soci::into(count);
      counts.emplace_back(static_cast<Job::State>(state), count);
    }
    return counts;
  });
}

absl::StatusOr<std::vector<Event>> JobTable::ReadEvents(const std::string& name,
                                                        int64_t from_sequence, int limit) {
  return store_.sessions_->Read(
      kReadEvents, [&](soci::session& sql) -> absl::StatusOr<std::vector<Event>> {
        std::vector<Event> events;
        const long long from = from_sequence;
        soci::rowset<std::string> rows =
            (sql.prepare << "SELECT message FROM job_events WHERE job = :job AND "
                            "sequence >= :from ORDER BY sequence LIMIT :limit",
             soci::use(name), soci::use(from), soci::use(limit));
        for (const std::string& json : rows) events.push_back(FromJson<Event>(json));
        return events;
      });
}

absl::Status JobTable::Delete(const std::string& name) {
  Job::State state = Job::STATE_UNSPECIFIED;
  absl::Status deleted = store_.sessions_->Write(kWrite, [&](soci::session& sql) -> absl::Status {
    bool unreadable = false;
    {
      soci::rowset<soci::row> rows =
          (sql.prepare << absl::StrCat("SELECT ", kJobColumns, " FROM jobs WHERE name = :name"),
           soci::use(name));
      const auto row = rows.begin();
      if (row == rows.end()) return NoSuch(name);
      const Job job = ReadRow(*row).job;
      state = job.state();
      unreadable = job.has_error();
    }
    // Nobody can run or cancel a waiting job that cannot be read.
    const bool stuck = unreadable && (state == Job::QUEUED || state == Job::PAUSED);
    if (!HasEnded(state) && !stuck) {
      return MakeError(absl::StatusCode::kFailedPrecondition, v1::JOB_STATE,
                       absl::StrCat(name, " is ", Job::State_Name(state),
                                    ": cancel it and wait for its end before deleting it"),
                       {{"resource", name}, {"state", Job::State_Name(state)}});
    }
    // Another job may get this name: it must not get this one's version.
    sql << "DELETE FROM model_versions WHERE reservation_key = :name AND published = 0",
        soci::use(name);
    sql << "UPDATE model_versions SET reservation_key = NULL WHERE reservation_key = :name",
        soci::use(name);
    sql << "DELETE FROM jobs WHERE name = :name", soci::use(name);
    return absl::OkStatus();
  });
  if (deleted.ok()) {
    store_.sessions_->metrics().ChangeJobCount(Job::State_Name(state), -1);
    store_.sessions_->metrics().SetQueued(name, std::nullopt);  // it may be one that is unreadable
  }
  return deleted;
}

}  // namespace tasuki
