#include "server/store/rows.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "google/protobuf/util/time_util.h"
#include "model/errors/errors.h"
#include "model/recipe/version_name.h"
#include "server/store/job_state.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

absl::Status NoSuch(absl::string_view name) {
  return MakeError(absl::StatusCode::kNotFound, v1::RESOURCE_NOT_FOUND,
                   absl::StrCat(Quote(name), " does not exist"), {{"resource", std::string(name)}});
}

google::protobuf::Timestamp Now() {
  return google::protobuf::util::TimeUtil::MicrosecondsToTimestamp(absl::ToUnixMicros(absl::Now()));
}

std::string EndedStates() {
  std::vector<int> ended;
  for (int state = v1::TrainingJob::State_MIN; state <= v1::TrainingJob::State_MAX; ++state) {
    if (HasEnded(static_cast<v1::TrainingJob::State>(state))) ended.push_back(state);
  }
  return absl::StrJoin(ended, ", ");
}

absl::Status CheckUnused(soci::session& sql, const std::string& name) {
  std::string job;
  sql << absl::StrCat(
      "SELECT jobs.name FROM job_references JOIN jobs ON jobs.name = job_references.job "
      "WHERE job_references.name = :name AND jobs.state NOT IN (",
      EndedStates(), ") ORDER BY jobs.seq LIMIT 1"),
      soci::use(name), soci::into(job);
  if (!sql.got_data()) return absl::OkStatus();
  return MakeError(
      absl::StatusCode::kFailedPrecondition, v1::RESOURCE_IN_USE,
      absl::StrCat(name, " is used by ", job, ", which has not ended: wait for it or cancel it"),
      {{"resource", name}, {"used_by", job}});
}

std::vector<std::string> AliasesOf(soci::session& sql, const std::string& version) {
  const auto key = VersionName::Parse(version);
  std::vector<std::string> names;
  if (!key) return names;
  soci::rowset<std::string> rows =
      (sql.prepare << "SELECT name FROM model_aliases WHERE model = :model AND "
                      "(number = :number OR shadow = :shadow) ORDER BY name",
       soci::use(key->model), soci::use(key->version), soci::use(key->version));
  for (const std::string& name : rows) names.push_back(name);
  return names;
}

absl::Status CheckUnnamed(soci::session& sql, const std::string& version) {
  const std::vector<std::string> aliases = AliasesOf(sql, version);
  if (aliases.empty()) return absl::OkStatus();
  return MakeError(absl::StatusCode::kFailedPrecondition, v1::RESOURCE_IN_USE,
                   absl::StrCat(version, " is named by ", aliases.front(),
                                ": point that to another version first"),
                   {{"resource", version}, {"used_by", aliases.front()}});
}

bool Exists(soci::session& sql, const std::string& name) {
  int count = 0;
  if (const auto key = VersionName::Parse(name)) {
    sql << "SELECT COUNT(*) FROM model_versions WHERE model = :model AND number = :number "
           "AND published = 1",
        soci::use(key->model), soci::use(key->version), soci::into(count);
  } else {
    sql << "SELECT COUNT(*) FROM datasets WHERE name = :name", soci::use(name), soci::into(count);
  }
  return count > 0;
}

}  // namespace tasuki
