#include "server/store/alias_table.h"

#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/recipe/version_name.h"
#include "server/store/paging.h"
#include "server/store/rows.h"
#include "server/store/sessions.h"

namespace tasuki {
namespace {

constexpr char kRead[] = "read_models";
constexpr char kWrite[] = "write_models";
constexpr int kMaxHistory = 100;

std::optional<v1::ModelAlias> Find(soci::session& sql, const std::string& name) {
  std::string json;
  sql << "SELECT message FROM model_aliases WHERE name = :name", soci::use(name), soci::into(json);
  if (!sql.got_data()) return std::nullopt;
  return FromJson<v1::ModelAlias>(json);
}

// Stores the alias, whose version is `version`.
void Put(soci::session& sql, const v1::ModelAlias& alias, const VersionName& version) {
  const int64_t shadow =
      VersionName::Parse(alias.shadow_model_version()).value_or(VersionName()).version;
  const std::string json = ToJson(alias);
  sql << "DELETE FROM model_aliases WHERE name = :name", soci::use(alias.name());
  sql << "INSERT INTO model_aliases (name, model, number, shadow, message) "
         "VALUES (:name, :model, :number, :shadow, :message)",
      soci::use(alias.name()), soci::use(version.model), soci::use(version.version),
      soci::use(shadow), soci::use(json);
}

}  // namespace

absl::StatusOr<v1::ModelAlias> AliasTable::Set(const std::string& name,
                                               const v1::ModelAlias::Change& change) {
  return store_.sessions_->Write(kWrite, [&](soci::session& sql) -> absl::StatusOr<v1::ModelAlias> {
    const auto version = VersionName::Parse(change.model_version());
    if (!version || !Exists(sql, change.model_version())) {
      return NoSuch(change.model_version());
    }
    v1::ModelAlias alias = Find(sql, name).value_or(v1::ModelAlias());
    if (alias.model_version() == change.model_version()) return alias;
    const auto now = Now();
    if (alias.name().empty()) *alias.mutable_create_time() = now;
    alias.set_name(name);
    alias.set_model_version(change.model_version());
    // What was tried in the shadow is promoted.
    if (alias.shadow_model_version() == change.model_version()) alias.clear_shadow_model_version();
    *alias.mutable_update_time() = now;
    const auto before = std::move(*alias.mutable_history());
    alias.clear_history();
    *alias.add_history() = change;
    *alias.mutable_history(0)->mutable_create_time() = now;
    for (const auto& earlier : before) {
      if (alias.history_size() < kMaxHistory) *alias.add_history() = earlier;
    }
    Put(sql, alias, *version);
    return alias;
  });
}

absl::StatusOr<v1::ModelAlias> AliasTable::SetShadow(const std::string& name,
                                                     const std::string& shadow) {
  return store_.sessions_->Write(kWrite, [&](soci::session& sql) -> absl::StatusOr<v1::ModelAlias> {
    auto alias = Find(sql, name);
    if (!alias.has_value()) return NoSuch(name);
    if (!shadow.empty() && !Exists(sql, shadow)) return NoSuch(shadow);
    if (shadow == alias->model_version()) {
      Faults faults;
      faults.Add("model_version", absl::StrCat(shadow, " is the version of ", name,
                                               " itself; a shadow is another one"));
      return faults.ToStatus();
    }
    const auto version = VersionName::Parse(alias->model_version());
    if (!version) {
      throw DamagedRow(absl::StrCat("model_version of ", name));
    }
    alias->set_shadow_model_version(shadow);
    *alias->mutable_update_time() = Now();
    Put(sql, *alias, *version);
    return *std::move(alias);
  });
}

absl::StatusOr<v1::ModelAlias> AliasTable::Get(const std::string& name) {
  return store_.sessions_->Read(kRead, [&](soci::session& sql) -> absl::StatusOr<v1::ModelAlias> {
    auto alias = Find(sql, name);
    if (!alias.has_value()) return NoSuch(name);
    return *std::move(alias);
  });
}

absl::Status AliasTable::Delete(const std::string& name) {
  return store_.sessions_->Write(kWrite, [&](soci::session& sql) -> absl::Status {
    if (!Find(sql, name).has_value()) return NoSuch(name);
    sql << "DELETE FROM model_aliases WHERE name = :name", soci::use(name);
    return absl::OkStatus();
  });
}

absl::StatusOr<Page<v1::ModelAlias>> AliasTable::List(const std::string& model, int page_size,
                                                      const std::string& page_token) {
  const std::string listing = absl::StrCat("aliases of ", model);
  const auto start = StartOfPage(listing, page_size, page_token);
  if (!start.ok()) return start.status();
  return store_.sessions_->Read(
      kRead, [&](soci::session& sql) -> absl::StatusOr<Page<v1::ModelAlias>> {
        int known = 0;
        sql << "SELECT COUNT(*) FROM models WHERE name = :model", soci::use(model),
            soci::into(known);
        if (known == 0) return NoSuch(model);
        const size_t limit = start->size + 1;
        soci::rowset<soci::row> rows =
            (sql.prepare << "SELECT name, message FROM model_aliases WHERE model = :model AND "
                            "name > :after ORDER BY name LIMIT :limit",
             soci::use(model), soci::use(start->key), soci::use(limit));
        return CutPage<v1::ModelAlias>(listing, *start, rows, [](const soci::row& row) {
          return FromJson<v1::ModelAlias>(row.get<std::string>(1));
        });
      });
}

absl::StatusOr<std::vector<v1::ModelAlias>> AliasTable::All() {
  return store_.sessions_->Read(
      kRead, [&](soci::session& sql) -> absl::StatusOr<std::vector<v1::ModelAlias>> {
        std::vector<v1::ModelAlias> aliases;
        soci::rowset<std::string> rows =
            (sql.prepare << "SELECT message FROM model_aliases ORDER BY name");
        for (const std::string& json : rows) aliases.push_back(FromJson<v1::ModelAlias>(json));
        return aliases;
      });
}

absl::StatusOr<std::vector<std::string>> AliasTable::Of(const std::string& version) {
  return store_.sessions_->Read(
      kRead, [&](soci::session& sql) -> absl::StatusOr<std::vector<std::string>> {
        return AliasesOf(sql, version);
      });
}

absl::Status AliasTable::CheckUnnamed(const std::string& version) {
  return store_.sessions_->Read(
      kRead, [&](soci::session& sql) { return tasuki::CheckUnnamed(sql, version); });
}

}  // namespace tasuki
