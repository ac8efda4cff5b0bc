#include "server/store/dataset_table.h"

#include "server/store/paging.h"
#include "server/store/rows.h"
#include "server/store/sessions.h"

namespace tasuki {
namespace {

constexpr char kRead[] = "read_datasets";
constexpr char kWrite[] = "write_datasets";
constexpr char kListing[] = "datasets";

absl::StatusOr<v1::Dataset> Find(soci::session& sql, const std::string& name) {
  std::string json;
  sql << "SELECT message FROM datasets WHERE name = :name", soci::use(name), soci::into(json);
  if (!sql.got_data()) return NoSuch(name);
  return FromJson<v1::Dataset>(json);
}

}  // namespace

absl::StatusOr<v1::Dataset> DatasetTable::Insert(const v1::Dataset& dataset) {
  return store_.sessions_->Write(kWrite, [&](soci::session& sql) -> absl::StatusOr<v1::Dataset> {
    if (auto present = Find(sql, dataset.name()); present.ok()) return present;
    v1::Dataset row = dataset;
    if (!row.has_create_time()) *row.mutable_create_time() = Now();
    const long long seq = NextValue(sql, "datasets");
    const std::string json = ToJson(row);
    sql << "INSERT INTO datasets (name, seq, message) VALUES (:name, :seq, :message)",
        soci::use(row.name()), soci::use(seq), soci::use(json);
    return row;
  });
}

absl::StatusOr<v1::Dataset> DatasetTable::Get(const std::string& name) {
  return store_.sessions_->Read(kRead, [&](soci::session& sql) { return Find(sql, name); });
}

absl::StatusOr<Page<v1::Dataset>> DatasetTable::List(int page_size, const std::string& page_token) {
  const auto start = StartOfPage(kListing, page_size, page_token);
  if (!start.ok()) return start.status();
  return store_.sessions_->Read(
      kRead, [&](soci::session& sql) -> absl::StatusOr<Page<v1::Dataset>> {
        const long long before = start->before();
        const size_t limit = start->size + 1;
        soci::rowset<soci::row> rows =
            (sql.prepare << "SELECT CAST(seq AS TEXT), message FROM datasets WHERE seq < :before "
                            "ORDER BY seq DESC LIMIT :limit",
             soci::use(before), soci::use(limit));
        return CutPage<v1::Dataset>(kListing, *start, rows, [](const soci::row& row) {
          return FromJson<v1::Dataset>(row.get<std::string>(1));
        });
      });
}

absl::Status DatasetTable::Delete(const std::string& name) {
  return store_.sessions_->Write(kWrite, [&](soci::session& sql) -> absl::Status {
    if (auto present = Find(sql, name); !present.ok()) return present.status();
    if (absl::Status status = CheckUnused(sql, name); !status.ok()) return status;
    sql << "DELETE FROM datasets WHERE name = :name", soci::use(name);
    return absl::OkStatus();
  });
}

}  // namespace tasuki
