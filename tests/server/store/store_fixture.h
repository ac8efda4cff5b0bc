// A store in a directory of its own, with short ways to put rows into it.
#pragma once

#include <soci/soci.h>
#include <soci/sqlite3/soci-sqlite3.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "server/metrics/metrics.h"
#include "server/store/dataset_table.h"
#include "server/store/job_table.h"
#include "server/store/model_table.h"
#include "server/store/store.h"

namespace tasuki {

class StoreFixture : public ::testing::Test {
 protected:
  StoreFixture() {
    std::string directory = std::filesystem::temp_directory_path() / "tasuki-store-XXXXXX";
    directory_ = mkdtemp(directory.data());
    Reopen();
  }
  ~StoreFixture() override {
    Close();
    std::filesystem::remove_all(directory_);
  }

  std::string path() const { return directory_ + "/tasuki.db"; }
  Store& store() { return *store_; }
  Metrics& metrics() { return *metrics_; }

  void Close() { store_.reset(); }
  absl::Status TryOpen() {
    store_.reset();
    metrics_ = std::make_unique<Metrics>();
    auto store = Store::Open(path(), *metrics_);
    if (store.ok()) store_ = *std::move(store);
    return store.status();
  }
  void Reopen() {
    const absl::Status status = TryOpen();
    ASSERT_TRUE(status.ok()) << status;
  }
  // Runs a statement past the store. REQUIRES: closed.
  void Execute(const std::string& statement) {
    soci::session sql(soci::sqlite3, "dbname=" + path());
    sql << statement;
  }

  void AddDataset(const std::string& name) {
    v1::Dataset dataset;
    dataset.set_name(name);
    dataset.set_display_name(name);
    const auto stored = store().datasets().Insert(dataset);
    ASSERT_TRUE(stored.ok()) << stored.status();
  }

  static v1::TrainingJob Job(const std::string& name) {
    v1::TrainingJob job;
    job.set_name(name);
    job.set_model("models/m");
    job.set_state(v1::TrainingJob::QUEUED);
    return job;
  }
  static v1::TrainingJobEvent StateEvent(v1::TrainingJob::State state) {
    v1::TrainingJobEvent event;
    event.mutable_state_changed()->set_state(state);
    return event;
  }
  absl::StatusOr<v1::TrainingJob> Insert(const v1::TrainingJob& job,
                                         const std::string& request_id = "",
                                         const std::string& digest = "") {
    return store().jobs().Insert(job, request_id, digest, StateEvent(v1::TrainingJob::QUEUED));
  }
  // A queued job that trains on `dataset`, if it is given.
  void AddJob(const std::string& name, const std::string& dataset = "") {
    v1::TrainingJob job = Job(name);
    if (!dataset.empty()) job.mutable_fine_tuning()->add_tasks()->set_train_dataset(dataset);
    const auto stored = Insert(job);
    ASSERT_TRUE(stored.ok()) << stored.status();
  }
  absl::StatusOr<v1::TrainingJob> SetState(const std::string& name, v1::TrainingJob::State from,
                                           v1::TrainingJob::State to) {
    return store().jobs().Change(name, {.expected = {from}, .apply = [to](auto& job, auto& events) {
                                          job.set_state(to);
                                          events.push_back(StateEvent(to));
                                        }});
  }

  // The next version of `model`, reserved and published.
  std::string AddVersion(const std::string& model, const std::string& key, bool load = false) {
    const auto reserved = store().models().Reserve(model, key, "digest");
    EXPECT_TRUE(reserved.ok()) << reserved.status();
    v1::ModelVersion version;
    version.set_name(reserved->name);
    const auto published = store().models().Publish(version, load);
    EXPECT_TRUE(published.ok()) << published.status();
    return reserved->name;
  }

 private:
  std::string directory_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Store> store_;
};

// The names of a page's rows.
template <typename Row>
std::vector<std::string> NamesOf(const std::vector<Row>& rows) {
  std::vector<std::string> names;
  for (const Row& row : rows) names.push_back(row.name());
  return names;
}

}  // namespace tasuki
