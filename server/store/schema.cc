#include "server/store/schema.h"

#include <soci/soci.h>

#include <vector>

#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"

namespace tasuki {
namespace {

// Migration n leads from schema n to schema n + 1. What is here is never changed, only added to.
// The SQL is what SQLite and PostgreSQL both understand.
//
// `seq` is the order of creation and the key of listings; `message` is protobuf JSON, and the other
// columns repeat what has to be searched.
const std::vector<std::vector<const char*>> kMigrations = {
    {
        "CREATE TABLE counters (name TEXT PRIMARY KEY, value BIGINT NOT NULL)",
        "INSERT INTO counters (name, value) VALUES ('datasets', 0)",
        "INSERT INTO counters (name, value) VALUES ('jobs', 0)",

        "CREATE TABLE datasets (name TEXT PRIMARY KEY, seq BIGINT NOT NULL UNIQUE, "
        "message TEXT NOT NULL)",

        "CREATE TABLE jobs (name TEXT PRIMARY KEY, seq BIGINT NOT NULL UNIQUE, state BIGINT NOT "
        "NULL, "
        "request_id TEXT UNIQUE, request_digest TEXT, message TEXT NOT NULL)",
        "CREATE INDEX jobs_by_state ON jobs (state, seq)",

        "CREATE TABLE job_events (job TEXT NOT NULL REFERENCES jobs (name) ON DELETE CASCADE, "
        "sequence BIGINT NOT NULL, message TEXT NOT NULL, PRIMARY KEY (job, sequence))",

        // The datasets and model versions that a job works with.
        "CREATE TABLE job_references (job TEXT NOT NULL REFERENCES jobs (name) ON DELETE CASCADE, "
        "name TEXT NOT NULL, PRIMARY KEY (job, name))",
        "CREATE INDEX job_references_by_name ON job_references (name)",

        // A model stays when its versions are deleted, so that no number is given twice.
        "CREATE TABLE models (name TEXT PRIMARY KEY, last_number BIGINT NOT NULL, create_time "
        "TEXT)",
        "CREATE TABLE model_versions (model TEXT NOT NULL REFERENCES models (name), "
        "number BIGINT NOT NULL, reservation_key TEXT UNIQUE, reservation_digest TEXT, "
        "published BIGINT NOT NULL, to_load BIGINT NOT NULL, message TEXT NOT NULL, "
        "PRIMARY KEY (model, number))",
    },
    {
        // `shadow` is 0 where there is none.
        "CREATE TABLE model_aliases (name TEXT PRIMARY KEY, model TEXT NOT NULL REFERENCES models "
        "(name), "
        "number BIGINT NOT NULL, shadow BIGINT NOT NULL, message TEXT NOT NULL)",
        "CREATE INDEX model_aliases_by_model ON model_aliases (model, name)",
    }};

int64_t NewestVersion() { return static_cast<int64_t>(kMigrations.size()); }

}  // namespace

absl::Status CheckSchema(soci::session& sql, const std::string& path) {
  std::string verdict;
  sql << "PRAGMA quick_check(1)", soci::into(verdict);
  if (verdict != "ok") {
    return MakeError(
        absl::StatusCode::kDataLoss, v1::FILE_CHANGED,
        absl::StrCat("the store ", path, " is damaged (", verdict, "): restore it from a backup"));
  }
  int tables = 0;
  int ours = 0;
  sql << "SELECT COUNT(*) FROM sqlite_master", soci::into(tables);
  sql << "SELECT COUNT(*) FROM sqlite_master WHERE name = 'schema_version'", soci::into(ours);
  if (tables == 0) return absl::OkStatus();
  if (ours == 0) {
    return MakeError(absl::StatusCode::kDataLoss, v1::FILE_CHANGED,
                     absl::StrCat(path, " is a database of another program, not Tasuki's store"));
  }
  long long version = 0;
  sql << "SELECT MAX(version) FROM schema_version", soci::into(version);
  if (version > NewestVersion()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the store ", path, " has schema version ", version, ", this server knows version ",
        NewestVersion(), " at most: start a newer server, or restore a backup"));
  }
  return absl::OkStatus();
}

void Migrate(soci::session& sql) {
  sql << "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)";
  long long version = 0;
  soci::indicator is_null = soci::i_null;
  sql << "SELECT MAX(version) FROM schema_version", soci::into(version, is_null);
  if (is_null != soci::i_ok) version = 0;
  while (version < NewestVersion()) {
    for (const char* statement : kMigrations[version]) sql << statement;
    ++version;
    sql << "INSERT INTO schema_version (version) VALUES (:version)", soci::use(version);
  }
}

}  // namespace tasuki
