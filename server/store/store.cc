#include "server/store/store.h"

#include <soci/sqlite3/soci-sqlite3.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "google/protobuf/util/json_util.h"
#include "google/protobuf/util/time_util.h"
#include "model/errors/errors.h"
#include "server/store/alias_table.h"
#include "server/store/dataset_table.h"
#include "server/store/job_table.h"
#include "server/store/model_table.h"
#include "server/store/schema.h"
#include "server/store/sessions.h"

namespace tasuki {
namespace {

using google::protobuf::util::TimeUtil;

constexpr int kReaders = 3;
constexpr int kQueuedPage = 1000;

std::unique_ptr<soci::session> Connect(const std::string& path) {
  auto session =
      std::make_unique<soci::session>(soci::sqlite3, absl::StrCat("dbname=\"", path, "\""));
  *session << "PRAGMA busy_timeout = 5000";
  *session << "PRAGMA foreign_keys = ON";
  return session;
}

absl::Status Damaged(const std::string& store, absl::string_view cause) {
  return MakeError(absl::StatusCode::kDataLoss, v1::FILE_CHANGED,
                   absl::StrCat(store, " is damaged: ", cause));
}

}  // namespace

absl::Status StatusOfException(const std::string& path) {
  const std::string store = path.empty() ? "the store" : absl::StrCat("the store ", path);
  try {
    throw;
  } catch (const NewerRow& error) {
    return MakeError(absl::StatusCode::kDataLoss, v1::FILE_CHANGED,
                     absl::StrCat("a row of ", store,
                                  " has what this server does not know, as newer ones write it: "
                                  "start the newer server again (",
                                  error.what(), ")"));
  } catch (const DamagedRow& error) {
    return Damaged(store, error.what());
  } catch (const soci::sqlite3_soci_error& error) {
    // Its what() repeats the statement with all values; get_error_message() says what happened.
    // The low byte; the others of an extended code refine it.
    switch (error.result() & 0xFF) {
      case SQLITE_FULL:
        return MakeError(
            absl::StatusCode::kResourceExhausted, v1::DISK_FULL,
            absl::StrCat("no space left for ", store, ": free some on its volume and try again"));
      case SQLITE_CORRUPT:
      case SQLITE_NOTADB:
        return Damaged(store, error.get_error_message());
      default:
        return MakeError(absl::StatusCode::kUnavailable, v1::STORE_UNAVAILABLE,
                         absl::StrCat(store, " did not answer: ", error.get_error_message()));
    }
  } catch (const soci::soci_error& error) {
    return MakeError(absl::StatusCode::kUnavailable, v1::STORE_UNAVAILABLE,
                     absl::StrCat(store, " did not answer: ", error.get_error_message()));
  } catch (const std::exception& error) {
    return MakeError(absl::StatusCode::kInternal, v1::INTERNAL_ERROR, error.what());
  }
}

std::string ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(message, &json, options);
  if (!status.ok()) throw std::invalid_argument(status.ToString());
  return json;
}

void FromJson(const std::string& json, google::protobuf::Message& message) {
  const auto status = google::protobuf::util::JsonStringToMessage(json, &message);
  if (status.ok()) return;
  std::string cause = status.message().ToString();
  cause.resize(std::min(cause.find('\n'), cause.size()));  // what follows points into the text
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;
  if (google::protobuf::util::JsonStringToMessage(json, &message, options).ok()) {
    throw NewerRow(cause);
  }
  throw DamagedRow(cause);
}

long long NextValue(soci::session& sql, const std::string& counter) {
  long long value = 0;
  sql << "UPDATE counters SET value = value + 1 WHERE name = :name", soci::use(counter);
  sql << "SELECT value FROM counters WHERE name = :name", soci::use(counter), soci::into(value);
  return value;
}

// ---- Sessions ----------------------------------------------------------------------------------

absl::StatusOr<std::unique_ptr<Store::Sessions>> Store::Sessions::Open(const std::string& path,
                                                                       Metrics& metrics) {
  if (path.find('"') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("the store's path must not contain a double quote: ", path));
  }
  auto sessions = std::unique_ptr<Sessions>(new Sessions(metrics));
  try {
    auto writer = Connect(path);
    // Before anything writes: a file that is not ours is left as it is.
    if (absl::Status status = CheckSchema(*writer, path); !status.ok()) return status;
    std::string mode;
    *writer << "PRAGMA journal_mode = WAL", soci::into(mode);
    if (mode != "wal") {
      return MakeError(
          absl::StatusCode::kUnavailable, v1::STORE_UNAVAILABLE,
          absl::StrCat("the volume of ", path,
                       " cannot hold the store (no write-ahead log): use a local disk"));
    }
    *writer << "PRAGMA synchronous = FULL";
    *writer << "BEGIN IMMEDIATE";
    Migrate(*writer);
    *writer << "COMMIT";
    {
      absl::MutexLock lock(&sessions->write_mutex_);
      sessions->writer_ = std::move(writer);
    }
    for (int i = 0; i < kReaders; ++i) {
      auto reader = Connect(path);
      *reader << "PRAGMA query_only = ON";
      absl::MutexLock lock(&sessions->read_mutex_);
      sessions->idle_readers_.push_back(std::move(reader));
    }
    metrics.AddStoreConnections(1 + kReaders);
    return sessions;
  } catch (...) {
    return StatusOfException(path);
  }
}

std::unique_ptr<soci::session> Store::Sessions::TakeReader() {
  const auto some_idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(read_mutex_) {
    return !idle_readers_.empty();
  };
  absl::MutexLock lock(&read_mutex_, absl::Condition(&some_idle));
  std::unique_ptr<soci::session> reader = std::move(idle_readers_.back());
  idle_readers_.pop_back();
  metrics_.UseStoreConnections(1);
  return reader;
}

void Store::Sessions::GiveBack(std::unique_ptr<soci::session> reader) {
  metrics_.UseStoreConnections(-1);
  absl::MutexLock lock(&read_mutex_);
  idle_readers_.push_back(std::move(reader));
}

void Store::Sessions::Observe(const char* operation, absl::Time start, const absl::Status& status) {
  const bool failed = absl::IsUnavailable(status) || absl::IsResourceExhausted(status) ||
                      absl::IsDataLoss(status) || absl::IsInternal(status);
  metrics_.ObserveStoreOperation(operation, absl::Now() - start, !failed);
}

// Best effort: after some errors SQLite has rolled back by itself, and says so with another one.
void Store::Sessions::RollBack(soci::session& sql) {
  try {
    sql << "ROLLBACK";
  } catch (const std::exception&) {
  }
}

// ---- Store -------------------------------------------------------------------------------------

Store::Store() = default;
Store::~Store() = default;

absl::StatusOr<std::unique_ptr<Store>> Store::Open(const std::string& path, Metrics& metrics) {
  auto sessions = Sessions::Open(path, metrics);
  if (!sessions.ok()) return sessions.status();
  auto store = std::unique_ptr<Store>(new Store);
  store->sessions_ = *std::move(sessions);
  store->datasets_ = std::make_unique<DatasetTable>(*store);
  store->jobs_ = std::make_unique<JobTable>(*store);
  store->models_ = std::make_unique<ModelTable>(*store);
  store->aliases_ = std::make_unique<AliasTable>(*store);
  const auto counts = store->jobs_->CountByState();
  if (!counts.ok()) return counts.status();
  for (const auto& [state, count] : *counts) {
    metrics.SetJobCount(v1::TrainingJob::State_Name(state), count);
  }
  for (std::string page; true;) {
    const auto queued = store->jobs_->List({v1::TrainingJob::QUEUED}, kQueuedPage, page);
    if (!queued.ok()) return queued.status();
    for (const v1::TrainingJob& job : queued->rows) {
      if (!job.has_update_time()) continue;  // a row that cannot be read
      // What changed last is that it was queued, unless it was asked to finish since.
      metrics.SetQueued(job.name(),
                        absl::FromUnixMicros(TimeUtil::TimestampToMicroseconds(job.update_time())));
    }
    page = queued->next_page_token;
    if (page.empty()) break;
  }
  return store;
}

}  // namespace tasuki
