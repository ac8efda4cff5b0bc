#include "server/serving/model_registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "server/store/job_table.h"
#include "server/store/store.h"
#include "tests/testing/tiny_model.h"

namespace tasuki {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// A real tiny model, made once; every test copies it.
const std::string& TinyModel() {
  static const std::string* const directory = [] {
    std::string root = testing::TempDir() + "tiny.XXXXXX";
    auto* path = new std::string(std::string(mkdtemp(root.data())) + "/model");
    const absl::Status status = WriteTinyModel(*path, {TinyTask("mood"), TinyTask("taste")});
    EXPECT_TRUE(status.ok()) << status;
    return path;
  }();
  return *directory;
}

class ModelRegistryTest : public testing::Test {
 protected:
  static void TearDownTestSuite() { fs::remove_all(fs::path(TinyModel()).parent_path()); }

  ModelRegistryTest() {
    std::string root = testing::TempDir() + "registry.XXXXXX";
    data_ = std::make_unique<DataDirectory>(mkdtemp(root.data()));
    EXPECT_TRUE(MakeDirectories(data_->aside()).ok());
    options_.threads = 1;
    options_.trainer_path = data_->root() + "/trainer";
    SetTrainer("echo 42");
    store_ = *Store::Open(data_->database(), metrics_);
    Restart();
  }
  ~ModelRegistryTest() override {
    registry_.reset();
    store_.reset();
    fs::remove_all(data_->root());
  }

  void SetTrainer(const std::string& script) {
    ASSERT_TRUE(WriteFile(options_.trainer_path, "#!/bin/sh\n" + script + "\n").ok());
    ASSERT_EQ(chmod(options_.trainer_path.c_str(), 0755), 0);
  }
  // A new server's registry over the same data.
  void Restart() {
    registry_.reset();
    registry_ = std::make_unique<ModelRegistry>(*store_, *data_, options_, metrics_);
    ASSERT_TRUE(registry_->Start().ok());
  }
  // A copy of the tiny model where a job or an import would leave it.
  std::string Fresh(bool with_manifest = true) {
    const std::string directory = absl::StrCat(data_->aside(), "/result-", ++copies_);
    fs::copy(TinyModel(), directory);
    if (!with_manifest) fs::remove(directory + "/tasuki.json");
    return directory;
  }
  Publication JobPublication(const std::string& key) {
    return {.model = "models/m", .directory = Fresh(), .key = key, .load = true};
  }
  // Of a version that only an alias brings into memory.
  Publication Unloaded(const std::string& key) {
    Publication publication = JobPublication(key);
    publication.load = false;
    return publication;
  }
  void AddQueuedJob(const std::string& name) {
    v1::TrainingJob job;
    job.set_name(name);
    job.set_state(v1::TrainingJob::QUEUED);
    ASSERT_TRUE(store_->jobs().Insert(job, "", "", {}).ok());
  }
  // Publishes and answers the version's name.
  std::string Publish(const Publication& publication) {
    const auto version = registry_->Publish(publication);
    EXPECT_TRUE(version.ok()) << version.status();
    return version.ok() ? version->name() : "";
  }
  // Waits, if a version has to come back into memory.
  absl::StatusOr<std::shared_ptr<const LoadedModel>> Acquire(const std::string& name) {
    absl::StatusOr<AcquiredModel> acquired;
    absl::Notification done;
    registry_->Acquire(name, [&](auto model) {
      acquired = std::move(model);
      done.Notify();
    });
    done.WaitForNotification();
    if (!acquired.ok()) return acquired.status();
    return acquired->model;
  }
  v1::ModelAlias::Change To(const std::string& version) {
    v1::ModelAlias::Change change;
    change.set_model_version(version);
    change.set_cause(v1::ModelAlias::Change::SET);
    return change;
  }
  v1::ModelVersion::State StateOf(const std::string& version) {
    return registry_->Get(version)->state();
  }
  absl::StatusOr<std::vector<std::vector<float>>> Classify(const std::string& name) {
    auto model = Acquire(name);
    if (!model.ok()) return model.status();
    absl::StatusOr<std::vector<std::vector<float>>> answer;
    absl::Notification done;
    Batcher::Request request;
    request.model = *model;
    request.inputs.push_back(*(*model)->classifier->Prepare(0, "the room was good"));
    request.done = [&](absl::StatusOr<Batcher::Answer> scored) {
      if (scored.ok()) {
        answer = std::move(scored->scores);
      } else {
        answer = scored.status();
      }
      done.Notify();
    };
    model->reset();
    const absl::Status status = registry_->batcher().Submit(std::move(request));
    if (!status.ok()) return status;
    done.WaitForNotification();
    return answer;
  }

  Metrics metrics_;
  std::unique_ptr<DataDirectory> data_;
  ServingOptions options_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<ModelRegistry> registry_;
  int copies_ = 0;
};

TEST_F(ModelRegistryTest, AJobsResultIsPublishedLoadedAndAnswers) {
  const auto version = registry_->Publish(JobPublication("trainingJobs/a"));
  ASSERT_TRUE(version.ok()) << version.status();
  EXPECT_EQ(version->name(), "models/m/versions/1");
  EXPECT_EQ(version->state(), v1::ModelVersion::LOADED) << version->state_reason();
  EXPECT_EQ(version->tasks_size(), 2);
  EXPECT_EQ(version->training_job(), "trainingJobs/tiny");
  EXPECT_GT(version->parameter_count(), 10'000);
  EXPECT_EQ(version->files(version->files_size() - 1).name(), "tasuki.json");
  EXPECT_THAT(*ListDirectory(data_->aside()), IsEmpty()) << "it was moved";
  const auto scores = Classify("models/m");
  ASSERT_TRUE(scores.ok()) << scores.status();
  EXPECT_EQ(scores->at(0).size(), 2);
}

TEST_F(ModelRegistryTest, PublishingAgainUnderOneKeyAnswersTheSameVersion) {
  EXPECT_EQ(Publish(JobPublication("trainingJobs/a")), "models/m/versions/1");
  EXPECT_EQ(Publish(JobPublication("trainingJobs/a")), "models/m/versions/1");
  EXPECT_EQ(Publish(JobPublication("trainingJobs/b")), "models/m/versions/2");
  Publication other = JobPublication("trainingJobs/a");
  other.digest = "another";
  EXPECT_EQ(ReasonOf(registry_->Publish(other).status()), v1::REQUEST_ID_REUSED);
}

TEST_F(ModelRegistryTest, TwoCallsWithOneKeyAtATimePublishOnce) {
  std::vector<std::string> names(4);
  std::vector<std::thread> threads;
  std::vector<Publication> publications;
  for (int i = 0; i < 4; ++i) publications.push_back(JobPublication("trainingJobs/a"));
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] { names[i] = Publish(publications[i]); });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_THAT(names, testing::Each("models/m/versions/1"));
}

TEST_F(ModelRegistryTest, GoesOnWhereACrashEndedAPublication) {
  // Of jobs that have not ended.
  AddQueuedJob("trainingJobs/a");
  AddQueuedJob("trainingJobs/b");
  // After the number was reserved.
  const auto reserved = store_->models().Reserve("models/m", "trainingJobs/a", "");
  ASSERT_TRUE(reserved.ok());
  Restart();
  EXPECT_EQ(ReasonOf(Acquire("models/m").status()), v1::RESOURCE_NOT_FOUND);
  EXPECT_EQ(Publish(JobPublication("trainingJobs/a")), reserved->name);

  // After the directory was moved into place: what is left of the call is its key.
  const auto moved = store_->models().Reserve("models/m", "trainingJobs/b", "");
  ASSERT_TRUE(moved.ok());
  ASSERT_TRUE(PublishDirectory(Fresh(), data_->model_version(moved->name)).ok());
  Restart();
  EXPECT_TRUE(absl::IsNotFound(registry_->Get(moved->name).status())) << "not visible yet";
  EXPECT_EQ(Publish({.model = "models/m",
                     .directory = data_->aside() + "/gone",
                     .key = "trainingJobs/b",
                     .load = true}),
            moved->name);
  EXPECT_TRUE(Classify(moved->name).ok());
}

TEST_F(ModelRegistryTest, RemovesAtTheStartWhatACrashLeftAndNothingElse) {
  AddQueuedJob("trainingJobs/b");
  const auto leave = [&](const std::string& name) {
    const std::string directory = data_->model_version(name);
    EXPECT_TRUE(MakeDirectories(fs::path(directory).parent_path()).ok());
    EXPECT_TRUE(PublishDirectory(Fresh(), directory).ok());
    return directory;
  };
  const std::string kept = Publish(JobPublication("trainingJobs/a"));
  Publication plain = JobPublication("trainingJobs/z");
  plain.load = false;
  const std::string deleted = Publish(plain);
  ASSERT_TRUE(store_->models().DeleteVersion(deleted).ok());  // and there the server ended
  const std::string imported = leave(store_->models().Reserve("models/m", "imports/1", "")->name);
  const std::string job = leave(store_->models().Reserve("models/m", "trainingJobs/b", "")->name);
  const std::string of_another_store = leave("models/m/versions/99");
  const std::string unknown = leave("models/unknown/versions/1");
  ASSERT_TRUE(WriteFile(data_->models() + "/m/notes", "by hand").ok());
  ASSERT_TRUE(WriteFile(data_->models() + "/notes", "by hand").ok());
  Restart();
  EXPECT_FALSE(fs::exists(data_->model_version(deleted)));
  EXPECT_FALSE(fs::exists(imported));
  for (const std::string& path : {data_->model_version(kept), job, of_another_store, unknown,
                                  data_->models() + "/m/notes", data_->models() + "/notes"}) {
    EXPECT_TRUE(fs::exists(path)) << path;
  }
  EXPECT_EQ(data_->model_version(Publish(JobPublication("trainingJobs/b"))), job);
}

TEST_F(ModelRegistryTest, AnImportIsCheckedFirstAndKeepsNoLineage) {
  const auto version = registry_->Publish(
      {.model = "models/i", .directory = Fresh(), .key = "imports/1", .check = true});
  ASSERT_TRUE(version.ok()) << version.status();
  EXPECT_EQ(version->parameter_count(), 42) << "what the check counted";
  EXPECT_EQ(version->training_job(), "");
  EXPECT_EQ(version->tasks_size(), 2);
  EXPECT_EQ(version->state(), v1::ModelVersion::UNLOADED);
  EXPECT_TRUE(registry_->Load("models/i").ok());
  EXPECT_TRUE(Classify("models/i").ok());
}

TEST_F(ModelRegistryTest, AnImportLeavesTheAdapterBehind) {
  // As an export of another server has it, from which only the model's own files were sent.
  const std::string directory = Fresh();
  auto manifest = *ReadManifest(directory);
  manifest.mutable_lora()->set_rank(8);
  manifest.add_files()->set_name("adapter/adapter_config.json");
  ASSERT_TRUE(WriteJson(directory + "/tasuki.json", manifest).ok());
  const auto version = registry_->Publish(
      {.model = "models/i", .directory = directory, .key = "imports/1", .check = true});
  ASSERT_TRUE(version.ok()) << version.status();
  EXPECT_FALSE(version->has_lora());
  for (const auto& file : version->files())
    EXPECT_THAT(file.name(), testing::Not(HasSubstr("adapter")));
  EXPECT_TRUE(registry_->Load("models/i").ok());
}

TEST_F(ModelRegistryTest, AnImportWithoutManifestBecomesABaseModel) {
  const auto version = registry_->Publish({.model = "models/i",
                                           .directory = Fresh(/*with_manifest=*/false),
                                           .key = "imports/1",
                                           .check = true,
                                           .load = true});
  ASSERT_TRUE(version.ok()) << version.status();
  EXPECT_EQ(version->tasks_size(), 0);
  const absl::Status status = registry_->Load("models/i").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_THAT(status.message(), HasSubstr("base model without a task"));
}

TEST_F(ModelRegistryTest, AnImportThatFailsItsCheckLeavesNothing) {
  SetTrainer("echo 'spiece.model is malformed' >&2; exit 65");
  const Publication bad = {
      .model = "models/i", .directory = Fresh(), .key = "imports/1", .check = true};
  const absl::Status status = registry_->Publish(bad).status();
  EXPECT_EQ(ReasonOf(status), v1::MODEL_INVALID);
  EXPECT_THAT(status.message(), HasSubstr("spiece.model is malformed"));
  EXPECT_TRUE(absl::IsNotFound(store_->models().GetModel("models/i").status()));
  SetTrainer("echo 42");
  EXPECT_TRUE(registry_->Publish(bad).ok()) << "the same request after the cause is gone";
}

TEST_F(ModelRegistryTest, AnImportWhoseManifestDoesNotFitIsRefused) {
  const std::string directory = Fresh();
  ASSERT_TRUE(WriteFile(directory + "/generation_config.json", "{}").ok());
  const absl::Status status =
      registry_
          ->Publish(
              {.model = "models/i", .directory = directory, .key = "imports/1", .check = true})
          .status();
  EXPECT_EQ(ReasonOf(status), v1::MODEL_INVALID);
  EXPECT_THAT(status.message(), HasSubstr("fit the files: generation_config.json has 2 bytes"));
}

TEST_F(ModelRegistryTest, UnloadWaitsForTheLastRequestAndIsRemembered) {
  const std::string name = Publish(JobPublication("trainingJobs/a"));
  auto held = Acquire(name);
  ASSERT_TRUE(held.ok());
  std::atomic<bool> unloaded = false;
  std::thread unload([&] {
    EXPECT_TRUE(registry_->Unload(name).ok());
    unloaded = true;
  });
  while (Acquire(name).ok()) std::this_thread::yield();
  EXPECT_FALSE(unloaded);
  EXPECT_TRUE((*held)->classifier->Prepare(0, "still there").ok());
  held->reset();
  unload.join();
  EXPECT_EQ(registry_->Get(name)->state(), v1::ModelVersion::UNLOADED);
  Restart();
  EXPECT_EQ(ReasonOf(Acquire(name).status()), v1::MODEL_NOT_LOADED);
  ASSERT_TRUE(registry_->Load(name).ok());
  Restart();
  EXPECT_EQ(registry_->Load(name)->state(), v1::ModelVersion::LOADED);
  EXPECT_THAT(registry_->LoadedVersions(), ElementsAre(name));
}

TEST_F(ModelRegistryTest, LoadsAndUnloadsOfAVersionAnswerWhatTheyMade) {
  const std::string name = Publish(JobPublication("trainingJobs/a"));
  for (int round = 0; round < 30; ++round) {
    std::vector<std::thread> calls;
    for (int i = 0; i < 4; ++i) {
      calls.emplace_back([&, load = (round + i) % 2 == 0] {
        const auto version = load ? registry_->Load(name) : registry_->Unload(name);
        ASSERT_TRUE(version.ok()) << version.status();
        EXPECT_EQ(version->state(), load ? v1::ModelVersion::LOADED : v1::ModelVersion::UNLOADED);
      });
    }
    for (auto& call : calls) call.join();
    const bool loaded = registry_->Get(name)->state() == v1::ModelVersion::LOADED;
    ASSERT_EQ(store_->models().ToLoad()->size(), loaded ? 1u : 0u) << "round " << round;
  }
}

TEST_F(ModelRegistryTest, LoadsAVersionThatTheStoreHasAndAPublicationIsAboutToTellOf) {
  const std::string name = Publish(JobPublication("trainingJobs/a"));
  // The next version, as far as the registry's memory is concerned: not there yet.
  v1::ModelVersion next = *store_->models().GetVersion(name);
  next.set_name(store_->models().Reserve("models/m", "trainingJobs/b", "")->name);
  fs::copy(data_->model_version(name), data_->model_version(next.name()));
  ASSERT_TRUE(store_->models().Publish(next, false).ok());
  const auto loaded = registry_->Load(next.name());
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->state(), v1::ModelVersion::LOADED);
}

TEST_F(ModelRegistryTest, AChangedFileIsNeverLoaded) {
  const std::string name = Publish(JobPublication("trainingJobs/a"));
  ASSERT_TRUE(registry_->Unload(name).ok());
  const std::string weights = data_->model_version(name) + "/model.safetensors";
  std::string bytes = *ReadFile(weights);
  bytes.back() ^= 1;
  ASSERT_TRUE(WriteFile(weights, bytes).ok());
  const absl::Status status = registry_->Load(name).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_EQ(ReasonOf(status), v1::FILE_CHANGED);
  EXPECT_EQ(registry_->Get(name)->state(), v1::ModelVersion::FAILED);
  EXPECT_THAT(registry_->Get(name)->state_reason(), HasSubstr("model.safetensors"));
  EXPECT_THAT(registry_->Get(name)->state_reason(), Not(HasSubstr(data_->root())))
      << "callers are not told where the server keeps it";
  EXPECT_THAT(*store_->models().ToLoad(), IsEmpty()) << "it is not tried at the next start";
  EXPECT_THAT(std::string(Acquire(name).status().message()), HasSubstr("could not be loaded"));
}

TEST_F(ModelRegistryTest, AFailedLoadOfAPublishedVersionIsItsStateNotAnError) {
  Publication publication = JobPublication("trainingJobs/a");
  ASSERT_TRUE(WriteFile(publication.directory + "/config.json", "{}").ok());
  const auto version = registry_->Publish(publication);
  ASSERT_TRUE(version.ok()) << version.status();
  EXPECT_EQ(version->state(), v1::ModelVersion::FAILED);
  EXPECT_THAT(version->state_reason(), HasSubstr("config.json"));
}

TEST_F(ModelRegistryTest, DeletesAVersionOnlyOnceItIsUnloaded) {
  const std::string name = Publish(JobPublication("trainingJobs/a"));
  EXPECT_EQ(ReasonOf(registry_->Delete(name)), v1::RESOURCE_IN_USE);
  ASSERT_TRUE(registry_->Unload(name).ok());
  EXPECT_TRUE(registry_->Delete(name).ok());
  EXPECT_FALSE(fs::exists(data_->model_version(name)));
  EXPECT_EQ(ReasonOf(Acquire(name).status()), v1::RESOURCE_NOT_FOUND);
  EXPECT_TRUE(absl::IsNotFound(registry_->Delete(name)));
  EXPECT_EQ(Publish(JobPublication("trainingJobs/b")), "models/m/versions/2")
      << "a number is never used again";
}

TEST_F(ModelRegistryTest, AfterStopItRefusesWork) {
  const std::string name = Publish(JobPublication("trainingJobs/a"));
  registry_->Drain();
  EXPECT_TRUE(Classify(name).ok()) << "draining, what is loaded goes on";
  EXPECT_EQ(ReasonOf(registry_->Publish(JobPublication("trainingJobs/b")).status()), v1::DRAINING);
  registry_->Stop();
  EXPECT_EQ(ReasonOf(Classify(name).status()), v1::DRAINING);
}

TEST_F(ModelRegistryTest, AnAliasMovesOnlyToWhatCanAnswerAndFreesWhatItLeaves) {
  const std::string one = Publish(Unloaded("trainingJobs/a"));
  const std::string two = Publish(Unloaded("trainingJobs/b"));
  const std::string name = "models/m/aliases/production";
  EXPECT_TRUE(absl::IsNotFound(registry_->SetAlias(name, To("models/m/versions/9")).status()));
  EXPECT_EQ(ReasonOf(Acquire(name).status()), v1::RESOURCE_NOT_FOUND);
  ASSERT_TRUE(registry_->SetAlias(name, To(one)).ok());
  EXPECT_EQ((*Acquire(name))->name, one);
  EXPECT_EQ(ReasonOf(registry_->Unload(one).status()), v1::RESOURCE_IN_USE);

  auto alias = registry_->SetAlias(name, To(two));
  ASSERT_TRUE(alias.ok()) << alias.status();
  EXPECT_EQ((*Acquire(name))->name, two);
  EXPECT_EQ(StateOf(one), v1::ModelVersion::UNLOADED);
  ASSERT_EQ(alias->history_size(), 2);
  EXPECT_EQ(alias->history(0).model_version(), two);
  EXPECT_EQ(alias->history(1).model_version(), one);
  EXPECT_EQ(ReasonOf(registry_->Delete(two)), v1::RESOURCE_IN_USE);

  const std::string weights = data_->model_version(one) + "/model.safetensors";
  std::string bytes = *ReadFile(weights);
  bytes.back() ^= 1;
  ASSERT_TRUE(WriteFile(weights, bytes).ok());
  const absl::Status refused = registry_->RollbackAlias(name).status();
  EXPECT_EQ(ReasonOf(refused), v1::FILE_CHANGED) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("stays as it is"));
  EXPECT_EQ((*Acquire(name))->name, two);
  bytes.back() ^= 1;
  ASSERT_TRUE(WriteFile(weights, bytes).ok());
  alias = registry_->RollbackAlias(name);
  ASSERT_TRUE(alias.ok()) << alias.status();
  EXPECT_EQ(alias->model_version(), one);
  EXPECT_EQ(alias->history(0).cause(), v1::ModelAlias::Change::ROLLBACK);
  EXPECT_EQ(StateOf(two), v1::ModelVersion::UNLOADED);

  Restart();
  EXPECT_TRUE(registry_->Load(one).ok());  // waits for the start's load
  EXPECT_EQ((*Acquire(name))->name, one);
  ASSERT_TRUE(registry_->DeleteAlias(name).ok());
  EXPECT_EQ(StateOf(one), v1::ModelVersion::LOADED);
  EXPECT_EQ(ReasonOf(Acquire(name).status()), v1::RESOURCE_NOT_FOUND);
  EXPECT_TRUE(absl::IsNotFound(registry_->RollbackAlias(name).status()));
}

TEST_F(ModelRegistryTest, WhatWasLoadedByItselfStaysWhenAnAliasLeavesIt) {
  const std::string one = Publish(JobPublication("trainingJobs/a"));
  const std::string two = Publish(Unloaded("trainingJobs/b"));
  const std::string name = "models/m/aliases/production";
  ASSERT_TRUE(registry_->SetAlias(name, To(one)).ok());
  ASSERT_TRUE(registry_->SetAlias(name, To(two)).ok());
  EXPECT_EQ(StateOf(one), v1::ModelVersion::LOADED);
  Restart();
  for (const std::string& version : {one, two}) {
    while (StateOf(version) == v1::ModelVersion::LOADING) std::this_thread::yield();
    EXPECT_EQ(StateOf(version), v1::ModelVersion::LOADED);
  }
}

// The load goes on, and is nobody's: it must neither be deleted under a request nor come again.
TEST_F(ModelRegistryTest, AnAliasThatCouldNotWaitLeavesNothingBehind) {
  const std::string one = Publish(Unloaded("trainingJobs/a"));
  const std::string name = "models/m/aliases/production";
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      registry_->SetAlias(name, To(one), absl::Now() - absl::Seconds(1)).status()));
  while (StateOf(one) == v1::ModelVersion::LOADING) std::this_thread::yield();
  ASSERT_EQ(StateOf(one), v1::ModelVersion::LOADED);
  EXPECT_EQ(ReasonOf(registry_->Delete(one)), v1::RESOURCE_IN_USE);
  EXPECT_THAT(*store_->models().ToLoad(), IsEmpty());
  ASSERT_TRUE(registry_->Unload(one).ok());
  EXPECT_TRUE(registry_->Delete(one).ok());
}

TEST_F(ModelRegistryTest, ARollbackWaitsForTheChangeUnderWay) {
  const std::string one = Publish(JobPublication("trainingJobs/a"));
  const std::string two = Publish(JobPublication("trainingJobs/b"));
  const std::string three = Publish(JobPublication("trainingJobs/c"));
  const std::string name = "models/m/aliases/production";
  ASSERT_TRUE(registry_->SetAlias(name, To(one)).ok());
  ASSERT_TRUE(registry_->SetAlias(name, To(two)).ok());
  // The change to the third version waits until the unload of it has ended.
  auto held = Acquire(three);
  std::thread unload([&] { EXPECT_TRUE(registry_->Unload(three).ok()); });
  while (StateOf(three) == v1::ModelVersion::LOADED) std::this_thread::yield();
  std::thread change([&] { EXPECT_TRUE(registry_->SetAlias(name, To(three)).ok()); });
  absl::SleepFor(absl::Milliseconds(100));
  std::thread rollback([&] { EXPECT_TRUE(registry_->RollbackAlias(name).ok()); });
  absl::SleepFor(absl::Milliseconds(100));
  held->reset();
  unload.join();
  change.join();
  rollback.join();
  EXPECT_EQ((*Acquire(name))->name, two) << "back from the third, not from the second";
}

TEST_F(ModelRegistryTest, AnAliasWithoutAnEarlierVersionHasNoRollback) {
  const std::string one = Publish(JobPublication("trainingJobs/a"));
  const std::string two = Publish(JobPublication("trainingJobs/b"));
  const std::string name = "models/m/aliases/production";
  ASSERT_TRUE(registry_->SetAlias(name, To(one)).ok());
  EXPECT_EQ(ReasonOf(registry_->RollbackAlias(name).status()), v1::NO_EARLIER_VERSION);
  ASSERT_TRUE(registry_->SetAlias(name, To(two)).ok());
  ASSERT_TRUE(registry_->Unload(one).ok());
  ASSERT_TRUE(registry_->Delete(one).ok());
  EXPECT_EQ(ReasonOf(registry_->RollbackAlias(name).status()), v1::NO_EARLIER_VERSION);
  EXPECT_EQ((*Acquire(name))->name, two);
}

TEST_F(ModelRegistryTest, AShadowIsLoadedGivenOutBesideTheAliasAndFreed) {
  const std::string one = Publish(JobPublication("trainingJobs/a"));
  const std::string two = Publish(JobPublication("trainingJobs/b"));
  ASSERT_TRUE(registry_->Unload(two).ok());
  const std::string name = "models/m/aliases/production";
  EXPECT_TRUE(absl::IsNotFound(registry_->SetShadow(name, two).status()));
  ASSERT_TRUE(registry_->SetAlias(name, To(one)).ok());
  ASSERT_TRUE(registry_->SetShadow(name, two).ok());
  std::string shadow;
  registry_->Acquire(name, [&](auto model) { shadow = model->shadow->name; });
  EXPECT_EQ(shadow, two);
  EXPECT_EQ(ReasonOf(registry_->Unload(two).status()), v1::RESOURCE_IN_USE);
  ASSERT_TRUE(registry_->SetShadow(name, "").ok());
  EXPECT_EQ(StateOf(two), v1::ModelVersion::UNLOADED);
  registry_->Acquire(name,
                     [&](auto model) { shadow = model->shadow == nullptr ? "none" : "some"; });
  EXPECT_EQ(shadow, "none");
}

TEST_F(ModelRegistryTest, AShadowIsAnotherVersionAndEndsWhenItIsPromoted) {
  const std::string one = Publish(JobPublication("trainingJobs/a"));
  const std::string two = Publish(JobPublication("trainingJobs/b"));
  const std::string name = "models/m/aliases/production";
  ASSERT_TRUE(registry_->SetAlias(name, To(one)).ok());
  EXPECT_EQ(ReasonOf(registry_->SetShadow(name, one).status()), v1::FIELD_INVALID);
  ASSERT_TRUE(registry_->SetShadow(name, two).ok());
  const auto promoted = registry_->SetAlias(name, To(two));
  ASSERT_TRUE(promoted.ok()) << promoted.status();
  EXPECT_EQ(promoted->shadow_model_version(), "");
  registry_->Acquire(name, [&](auto model) { EXPECT_EQ(model->shadow, nullptr); });
}

TEST_F(ModelRegistryTest, AnAliasAnswersWhereItsShadowHasNoRoomBesideIt) {
  const std::string one = Publish(JobPublication("trainingJobs/a"));
  const std::string two = Publish(JobPublication("trainingJobs/b"));
  options_.memory_limit_bytes = registry_->Get(one)->memory_bytes() * 5 / 4;
  Restart();
  const std::string name = "models/m/aliases/production";
  ASSERT_TRUE(registry_->SetAlias(name, To(one)).ok());
  ASSERT_TRUE(registry_->SetShadow(name, two).ok());
  EXPECT_EQ(StateOf(one), v1::ModelVersion::STANDBY);
  EXPECT_TRUE(Classify(name).ok()) << "the shadow makes room";
  EXPECT_EQ(StateOf(two), v1::ModelVersion::STANDBY);
}

TEST_F(ModelRegistryTest, ModelsShareTheMemoryThatThereIs) {
  const std::string one = Publish(JobPublication("trainingJobs/a"));
  const int64_t bytes = registry_->Get(one)->memory_bytes();
  ASSERT_GT(bytes, 0);
  EXPECT_EQ(registry_->MemoryBytes(), bytes);
  options_.memory_limit_bytes = bytes * 5 / 2;
  Restart();
  ASSERT_TRUE(registry_->Load(one).ok());
  const std::string two = Publish(JobPublication("trainingJobs/b"));
  ASSERT_TRUE(Acquire(one).ok());
  const std::string three = Publish(JobPublication("trainingJobs/c"));
  EXPECT_EQ(StateOf(one), v1::ModelVersion::LOADED);
  EXPECT_EQ(StateOf(two), v1::ModelVersion::STANDBY) << "it was asked longest ago";
  EXPECT_EQ(StateOf(three), v1::ModelVersion::LOADED);
  EXPECT_TRUE(Classify(two).ok()) << "a request brings it back";
  EXPECT_EQ(StateOf(two), v1::ModelVersion::LOADED);
  EXPECT_EQ(StateOf(one), v1::ModelVersion::STANDBY);
  EXPECT_LE(registry_->MemoryBytes(), options_.memory_limit_bytes);

  // At a start none makes room for another.
  Restart();
  int standby = 0;
  for (const std::string& name : {one, two, three}) {
    while (StateOf(name) == v1::ModelVersion::LOADING) std::this_thread::yield();
    standby += StateOf(name) == v1::ModelVersion::STANDBY;
  }
  EXPECT_EQ(standby, 1);

  options_.memory_limit_bytes = bytes / 2;
  Restart();
  while (StateOf(one) == v1::ModelVersion::LOADING) std::this_thread::yield();
  EXPECT_EQ(StateOf(one), v1::ModelVersion::FAILED) << "it can never answer: not in STANDBY";
  const absl::Status status = registry_->Load(one).status();
  EXPECT_EQ(ReasonOf(status), v1::OUT_OF_MEMORY) << status;
}

TEST_F(ModelRegistryTest, OldVersionsGoButThoseThatAliasesNeed) {
  options_.keep_versions = 2;
  Restart();
  const std::string name = "models/m/aliases/production";
  ASSERT_TRUE(registry_->SetAlias(name, To(Publish(JobPublication("trainingJobs/1")))).ok());
  ASSERT_TRUE(registry_->SetAlias(name, To(Publish(JobPublication("trainingJobs/2")))).ok());
  for (const char* key : {"trainingJobs/3", "trainingJobs/4", "trainingJobs/5"}) {
    Publish(JobPublication(key));
  }
  std::vector<std::string> left;
  const auto page = registry_->ListVersions("models/m", 0, "");
  for (const auto& version : page->rows) {
    left.push_back(version.name());
  }
  EXPECT_THAT(left, ElementsAre("models/m/versions/5", "models/m/versions/4", "models/m/versions/2",
                                "models/m/versions/1"))
      << "the newest two, the one in production, and the one to go back to";
  EXPECT_FALSE(fs::exists(data_->model_version("models/m/versions/3")));
}

TEST_F(ModelRegistryTest, TheResultOfAJobThatHasNotEndedStays) {
  options_.keep_versions = 1;
  Restart();
  AddQueuedJob("trainingJobs/gate");
  const std::string result = Publish(Unloaded("trainingJobs/gate"));
  Publish(JobPublication("trainingJobs/2"));
  Publish(JobPublication("trainingJobs/3"));
  EXPECT_TRUE(registry_->Get(result).ok()) << "it is still to be deployed";
  EXPECT_TRUE(absl::IsNotFound(registry_->Get("models/m/versions/2").status()));
  EXPECT_EQ(ReasonOf(registry_->Delete(result)), v1::RESOURCE_IN_USE);
}

}  // namespace
}  // namespace tasuki
