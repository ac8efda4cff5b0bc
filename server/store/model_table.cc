#include "server/store/model_table.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/util/time_util.h"
#include "model/errors/errors.h"
#include "model/recipe/version_name.h"
#include "server/store/paging.h"
#include "server/store/rows.h"
#include "server/store/sessions.h"

namespace tasuki {
namespace {

constexpr char kRead[] = "read_models";
constexpr char kWrite[] = "write_models";
constexpr char kListing[] = "models";

// The columns say which it is, whatever the message says.
v1::ModelVersion VersionOf(const VersionName& key, const std::string& json) {
  v1::ModelVersion version = FromJson<v1::ModelVersion>(json);
  version.set_name(key.ToString());
  return version;
}

absl::StatusOr<v1::ModelVersion> Find(soci::session& sql, const std::string& name) {
  VersionName key;
  std::string json;
  if (const auto exact = VersionName::Parse(name)) {
    key = *exact;
    sql << "SELECT message FROM model_versions WHERE model = :model AND number = :number AND "
           "published = 1",
        soci::use(key.model), soci::use(key.version), soci::into(json);
  } else {
    key.model = name;
    sql << "SELECT number, message FROM model_versions WHERE model = :model AND published = 1 "
           "ORDER BY number DESC LIMIT 1",
        soci::use(name), soci::into(key.version), soci::into(json);
  }
  if (!sql.got_data()) return NoSuch(name);
  return VersionOf(key, json);
}

// A model of which a version is published, from name, newest number, count, time of the first.
v1::Model ModelOf(const std::string& name, long long newest, int count,
                  const std::string& create_time) {
  v1::Model model;
  model.set_name(name);
  model.set_latest_version(VersionName{name, newest}.ToString());
  model.set_version_count(count);
  if (!google::protobuf::util::TimeUtil::FromString(create_time, model.mutable_create_time())) {
    throw DamagedRow(absl::StrCat("create_time of ", name, " is ", Quote(create_time)));
  }
  return model;
}

// The same of the rows of `SELECT models.name …`, joined with the published versions.
constexpr char kSelectModels[] =
    "SELECT models.name, CAST(MAX(number) AS TEXT), CAST(COUNT(*) AS TEXT), models.create_time "
    "FROM models JOIN model_versions ON model = models.name AND published = 1 ";

v1::Model ModelOf(const soci::row& row) {
  return ModelOf(row.get<std::string>(0), std::stoll(row.get<std::string>(1)),
                 std::stoi(row.get<std::string>(2)), row.get<std::string>(3));
}

// FAILED_PRECONDITION, RESOURCE_IN_USE: who needs the version.
absl::Status CheckNobodyNeeds(soci::session& sql, const VersionName& key, const std::string& name) {
  if (absl::Status status = CheckUnnamed(sql, name); !status.ok()) return status;
  std::string job;
  sql << absl::StrCat(
      "SELECT jobs.name FROM model_versions JOIN jobs ON jobs.name = reservation_key "
      "WHERE model = :model AND number = :number AND jobs.state NOT IN (",
      EndedStates(), ")"),
      soci::use(key.model), soci::use(key.version), soci::into(job);
  if (sql.got_data()) {
    return MakeError(absl::StatusCode::kFailedPrecondition, v1::RESOURCE_IN_USE,
                     absl::StrCat(name, " is the result of ", job, ", which has not ended"),
                     {{"resource", name}, {"used_by", job}});
  }
  return CheckUnused(sql, name);
}

}  // namespace

absl::Status LoadedError(const std::string& version) {
  return MakeError(absl::StatusCode::kFailedPrecondition, v1::RESOURCE_IN_USE,
                   absl::StrCat(version, " is loaded for classification: unload it first"),
                   {{"resource", version}});
}

absl::StatusOr<ModelTable::Reservation> ModelTable::Reserve(const std::string& model,
                                                            const std::string& key,
                                                            const std::string& digest) {
  return store_.sessions_->Write(kWrite, [&](soci::session& sql) -> absl::StatusOr<Reservation> {
    VersionName version{model, 0};
    std::string known_digest;
    int published = 0;
    sql << "SELECT model, number, reservation_digest, published FROM model_versions "
           "WHERE reservation_key = :key",
        soci::use(key), soci::into(version.model), soci::into(version.version),
        soci::into(known_digest), soci::into(published);
    if (sql.got_data()) {
      if (known_digest == digest) return Reservation{version.ToString(), published == 1};
      return MakeError(absl::StatusCode::kAlreadyExists, v1::REQUEST_ID_REUSED,
                       absl::StrCat(Quote(key), " came before with another request (it made ",
                                    version.ToString(), "): use a new request_id"));
    }
    sql << "INSERT INTO models (name, last_number) VALUES (:name, 0) ON CONFLICT DO NOTHING",
        soci::use(model);
    sql << "UPDATE models SET last_number = last_number + 1 WHERE name = :name", soci::use(model);
    sql << "SELECT last_number FROM models WHERE name = :name", soci::use(model),
        soci::into(version.version);
    soci::indicator has_key = key.empty() ? soci::i_null : soci::i_ok;
    sql << "INSERT INTO model_versions (model, number, reservation_key, reservation_digest, "
           "published, to_load, message) VALUES (:model, :number, :key, :digest, 0, 0, '')",
        soci::use(model), soci::use(version.version), soci::use(key, has_key), soci::use(digest);
    version.model = model;
    return Reservation{version.ToString(), false};
  });
}

absl::StatusOr<v1::ModelVersion> ModelTable::Publish(const v1::ModelVersion& version, bool load) {
  return store_.sessions_->Write(
      kWrite, [&](soci::session& sql) -> absl::StatusOr<v1::ModelVersion> {
        const auto key = VersionName::Parse(version.name());
        int published = 0;
        if (!key) return NoSuch(version.name());
        sql << "SELECT published FROM model_versions WHERE model = :model AND number = :number",
            soci::use(key->model), soci::use(key->version), soci::into(published);
        if (!sql.got_data()) return NoSuch(version.name());
        if (published == 1) return Find(sql, version.name());
        v1::ModelVersion row = version;
        if (!row.has_create_time()) *row.mutable_create_time() = Now();
        const std::string json = ToJson(row);
        const int to_load = load ? 1 : 0;
        sql << "UPDATE model_versions SET published = 1, to_load = :load, message = :message "
               "WHERE model = :model AND number = :number",
            soci::use(to_load), soci::use(json), soci::use(key->model), soci::use(key->version);
        const std::string time = google::protobuf::util::TimeUtil::ToString(row.create_time());
        sql << "UPDATE models SET create_time = :time WHERE name = :name AND create_time IS NULL",
            soci::use(time), soci::use(key->model);
        return row;
      });
}

absl::Status ModelTable::Release(const std::string& name) {
  return store_.sessions_->Write(kWrite, [&](soci::session& sql) -> absl::Status {
    const auto key = VersionName::Parse(name);
    if (!key) return NoSuch(name);
    sql << "DELETE FROM model_versions WHERE model = :model AND number = :number AND "
           "published = 0",
        soci::use(key->model), soci::use(key->version);
    return absl::OkStatus();
  });
}

absl::Status ModelTable::ReleaseAbandoned() {
  return store_.sessions_->Write(kWrite, [&](soci::session& sql) -> absl::Status {
    sql << absl::StrCat(
        "DELETE FROM model_versions WHERE published = 0 AND NOT EXISTS (SELECT name FROM jobs "
        "WHERE name = reservation_key AND state NOT IN (",
        EndedStates(), "))");
    return absl::OkStatus();
  });
}

absl::StatusOr<bool> ModelTable::IsForgotten(const std::string& name) {
  return store_.sessions_->Read(kRead, [&](soci::session& sql) -> absl::StatusOr<bool> {
    const auto key = VersionName::Parse(name);
    if (!key) return false;
    int given = 0, kept = 0;
    sql << "SELECT COUNT(*) FROM models WHERE name = :model AND last_number >= :number",
        soci::use(key->model), soci::use(key->version), soci::into(given);
    sql << "SELECT COUNT(*) FROM model_versions WHERE model = :model AND number = :number",
        soci::use(key->model), soci::use(key->version), soci::into(kept);
    return given > 0 && kept == 0;
  });
}

absl::StatusOr<v1::ModelVersion> ModelTable::GetVersion(const std::string& name) {
  return store_.sessions_->Read(kRead, [&](soci::session& sql) { return Find(sql, name); });
}

absl::StatusOr<v1::Model> ModelTable::GetModel(const std::string& name) {
  return store_.sessions_->Read(kRead, [&](soci::session& sql) -> absl::StatusOr<v1::Model> {
    soci::rowset<soci::row> rows =
        (sql.prepare << absl::StrCat(kSelectModels,
                                     "WHERE models.name = :name "
                                     "GROUP BY models.name, models.create_time"),
         soci::use(name));
    for (const soci::row& row : rows) return ModelOf(row);
    return NoSuch(name);
  });
}

absl::StatusOr<Page<v1::Model>> ModelTable::ListModels(int page_size,
                                                       const std::string& page_token) {
  const auto start = StartOfPage(kListing, page_size, page_token);
  if (!start.ok()) return start.status();
  return store_.sessions_->Read(kRead, [&](soci::session& sql) -> absl::StatusOr<Page<v1::Model>> {
    const size_t limit = start->size + 1;
    soci::rowset<soci::row> rows =
        (sql.prepare << absl::StrCat(kSelectModels,
                                     "WHERE models.name > :after GROUP BY models.name, "
                                     "models.create_time ORDER BY models.name LIMIT :limit"),
         soci::use(start->key), soci::use(limit));
    return CutPage<v1::Model>(kListing, *start, rows,
                              [](const soci::row& row) { return ModelOf(row); });
  });
}

absl::StatusOr<Page<v1::ModelVersion>> ModelTable::ListVersions(const std::string& model,
                                                                int page_size,
                                                                const std::string& page_token) {
  const std::string listing = model + "/versions";
  const auto start = StartOfPage(listing, page_size, page_token);
  if (!start.ok()) return start.status();
  return store_.sessions_->Read(
      kRead, [&](soci::session& sql) -> absl::StatusOr<Page<v1::ModelVersion>> {
        if (auto newest = Find(sql, model); !newest.ok()) return newest.status();
        const long long before = start->before();
        const size_t limit = start->size + 1;
        soci::rowset<soci::row> rows =
            (sql.prepare << "SELECT CAST(number AS TEXT), message FROM model_versions "
                            "WHERE model = :model AND number < :before AND published = 1 "
                            "ORDER BY number DESC LIMIT :limit",
             soci::use(model), soci::use(before), soci::use(limit));
        return CutPage<v1::ModelVersion>(listing, *start, rows, [&](const soci::row& row) {
          return VersionOf({model, std::stoll(row.get<std::string>(0))}, row.get<std::string>(1));
        });
      });
}

absl::Status ModelTable::SetLoad(const std::string& name, bool load) {
  return store_.sessions_->Write(kWrite, [&](soci::session& sql) -> absl::Status {
    const auto key = VersionName::Parse(name);
    if (!key || !Exists(sql, name)) return NoSuch(name);
    const int to_load = load ? 1 : 0;
    sql << "UPDATE model_versions SET to_load = :load WHERE model = :model AND number = :number",
        soci::use(to_load), soci::use(key->model), soci::use(key->version);
    return absl::OkStatus();
  });
}

absl::StatusOr<bool> ModelTable::IsToLoad(const std::string& name) {
  return store_.sessions_->Read(kRead, [&](soci::session& sql) -> absl::StatusOr<bool> {
    const auto key = VersionName::Parse(name);
    if (!key || !Exists(sql, name)) return NoSuch(name);
    int to_load = 0;
    sql << "SELECT to_load FROM model_versions WHERE model = :model AND number = :number",
        soci::use(key->model), soci::use(key->version), soci::into(to_load);
    return to_load != 0;
  });
}

absl::StatusOr<std::vector<v1::ModelVersion>> ModelTable::ToLoad() {
  return store_.sessions_->Read(
      kRead, [&](soci::session& sql) -> absl::StatusOr<std::vector<v1::ModelVersion>> {
        std::vector<v1::ModelVersion> versions;
        soci::rowset<soci::row> rows =
            (sql.prepare << "SELECT model, CAST(number AS TEXT), message FROM model_versions "
                            "WHERE published = 1 AND to_load = 1 ORDER BY model, number");
        for (const soci::row& row : rows) {
          versions.push_back(
              VersionOf({row.get<std::string>(0), std::stoll(row.get<std::string>(1))},
                        row.get<std::string>(2)));
        }
        return versions;
      });
}

absl::Status ModelTable::CheckUnneeded(const std::string& name) {
  return store_.sessions_->Read(kRead, [&](soci::session& sql) -> absl::Status {
    const auto key = VersionName::Parse(name);
    if (!key) return NoSuch(name);
    return CheckNobodyNeeds(sql, *key, name);
  });
}

absl::Status ModelTable::DeleteVersion(const std::string& name) {
  return store_.sessions_->Write(kWrite, [&](soci::session& sql) -> absl::Status {
    const auto key = VersionName::Parse(name);
    int to_load = 0;
    if (!key) return NoSuch(name);
    sql << "SELECT to_load FROM model_versions WHERE model = :model AND number = :number AND "
           "published = 1",
        soci::use(key->model), soci::use(key->version), soci::into(to_load);
    if (!sql.got_data()) return NoSuch(name);
    if (absl::Status status = CheckUnnamed(sql, name); !status.ok()) return status;
    if (to_load == 1) return LoadedError(name);
    if (absl::Status status = CheckNobodyNeeds(sql, *key, name); !status.ok()) return status;
    sql << "DELETE FROM model_versions WHERE model = :model AND number = :number",
        soci::use(key->model), soci::use(key->version);
    return absl::OkStatus();
  });
}

}  // namespace tasuki
