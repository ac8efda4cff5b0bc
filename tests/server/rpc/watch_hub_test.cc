#include "server/rpc/watch_hub.h"

#include <gmock/gmock.h>

#include <numeric>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/server/rpc/server_fixture.h"

namespace tasuki {
namespace {

using testing::ElementsAre;

// A client's stream of one job.
struct Stream {
  Stream(const std::shared_ptr<grpc::Channel>& channel, const std::string& job, int64_t from = 0)
      : stub(v1::TrainingService::NewStub(channel)) {
    v1::WatchTrainingJobRequest request;
    request.set_name(job);
    request.set_from_sequence(from);
    reader = stub->WatchTrainingJob(&context, request);
  }
  // Sequence of the next event; 0 at the end.
  int64_t Next() {
    v1::WatchTrainingJobResponse response;
    return reader->Read(&response) ? response.event().sequence() : 0;
  }
  std::vector<int64_t> Rest() {
    std::vector<int64_t> sequences;
    while (const int64_t sequence = Next()) sequences.push_back(sequence);
    return sequences;
  }
  grpc::Status Finish() { return reader->Finish(); }

  std::unique_ptr<v1::TrainingService::Stub> stub;
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReader<v1::WatchTrainingJobResponse>> reader;
};

class WatchHubTest : public ServerFixture {
 protected:
  void AddJob(const std::string& name) {
    v1::TrainingJob job;
    job.set_name(name);
    job.set_model("models/m");
    job.set_state(v1::TrainingJob::QUEUED);
    v1::TrainingJobEvent first;
    first.mutable_state_changed()->set_state(v1::TrainingJob::QUEUED);
    ASSERT_TRUE(store_->jobs().Insert(job, "", "", first).ok());
  }
  // Appends events and tells the hub, as Jobs does.
  void Append(const std::string& name, int count,
              v1::TrainingJob::State state = v1::TrainingJob::QUEUED, size_t text_bytes = 0) {
    const auto job = store_->jobs().Change(
        name, {.expected = {v1::TrainingJob::QUEUED}, .apply = [&](auto& job, auto& events) {
                 job.set_state(state);
                 for (int i = 0; i < count; ++i) {
                   events.emplace_back().mutable_message()->set_text(
                       absl::StrCat("event ", i, std::string(text_bytes, ' ')));
                 }
               }});
    ASSERT_TRUE(job.ok()) << job.status();
    watchers_->Wake(name);
  }
};

TEST_F(WatchHubTest, StreamsWhatWasAndWhatComesUntilTheJobHasEnded) {
  AddJob("trainingJobs/a");
  Append("trainingJobs/a", 2);
  Stream stream(channel_, "trainingJobs/a");
  EXPECT_EQ(stream.Next(), 1);
  EXPECT_EQ(stream.Next(), 2);
  EXPECT_EQ(stream.Next(), 3);
  Append("trainingJobs/a", 1);
  EXPECT_EQ(stream.Next(), 4);
  Append("trainingJobs/a", 1, v1::TrainingJob::SUCCEEDED);
  EXPECT_THAT(stream.Rest(), ElementsAre(5));
  EXPECT_TRUE(stream.Finish().ok());
}

TEST_F(WatchHubTest, GoesOnFromAnySequence) {
  AddJob("trainingJobs/a");
  Append("trainingJobs/a", 300, v1::TrainingJob::FAILED);  // several reads of the store
  for (const int64_t from : {0, 1, 2, 150, 301, 302, 5000}) {
    Stream stream(channel_, "trainingJobs/a", from);
    std::vector<int64_t> expected;
    for (int64_t i = std::max<int64_t>(1, from); i <= 301; ++i) expected.push_back(i);
    EXPECT_EQ(stream.Rest(), expected) << from;
    EXPECT_TRUE(stream.Finish().ok());
  }
}

TEST_F(WatchHubTest, AStreamCutAnywhereAndResumedSeesEachEventOnce) {
  AddJob("trainingJobs/a");
  Append("trainingJobs/a", 100);
  int64_t seen = 0;
  for (int cut = 1; seen < 101; ++cut) {
    Stream stream(channel_, "trainingJobs/a", seen + 1);
    for (int i = 0; i < cut && seen < 101; ++i) EXPECT_EQ(stream.Next(), ++seen);
    stream.context.TryCancel();
    EXPECT_EQ(stream.Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
}

TEST_F(WatchHubTest, ManyWatchersOfOneJobSeeEveryEventInOrder) {
  AddJob("trainingJobs/a");
  AddJob("trainingJobs/b");
  std::vector<int64_t> expected(201);
  std::iota(expected.begin(), expected.end(), 1);
  std::vector<std::thread> clients;
  std::atomic<int> right = 0;
  for (int i = 0; i < 16; ++i) {
    clients.emplace_back([&, i] {
      Stream stream(channel_, i % 2 == 0 ? "trainingJobs/a" : "trainingJobs/b");
      right += stream.Rest() == expected && stream.Finish().ok();
    });
  }
  for (int i = 0; i < 20; ++i) {
    const auto state = i < 19 ? v1::TrainingJob::QUEUED : v1::TrainingJob::CANCELLED;
    Append("trainingJobs/a", 10, state);
    Append("trainingJobs/b", 10, state);
  }
  for (auto& client : clients) client.join();
  EXPECT_EQ(right, 16);
}

TEST_F(WatchHubTest, RefusesAJobThatIsNotThere) {
  Stream missing(channel_, "trainingJobs/none");
  EXPECT_EQ(missing.Next(), 0);
  EXPECT_EQ(missing.Finish().error_code(), grpc::StatusCode::NOT_FOUND);
  Stream malformed(channel_, "jobs/a");
  EXPECT_EQ(ReasonIn(malformed.Finish()), "FIELD_INVALID");
  Stream negative(channel_, "trainingJobs/a", -1);
  EXPECT_EQ(ReasonIn(negative.Finish()), "FIELD_INVALID");
}

TEST_F(WatchHubTest, EndsAStreamWhoseJobIsDeleted) {
  AddJob("trainingJobs/a");
  Stream stream(channel_, "trainingJobs/a");
  EXPECT_EQ(stream.Next(), 1);
  Append("trainingJobs/a", 0, v1::TrainingJob::CANCELLED);
  EXPECT_EQ(stream.Next(), 0);
  EXPECT_TRUE(stream.Finish().ok());
  ASSERT_TRUE(store_->jobs().Delete("trainingJobs/a").ok());
  Stream again(channel_, "trainingJobs/a");
  EXPECT_EQ(again.Finish().error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(WatchHubTest, ShutdownEndsStreamsWithUnavailable) {
  AddJob("trainingJobs/a");
  Stream idle(channel_, "trainingJobs/a");
  EXPECT_EQ(idle.Next(), 1);
  std::thread shutdown([this] { Shutdown(); });
  EXPECT_EQ(idle.Next(), 0);
  const grpc::Status status = idle.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonIn(status), "DRAINING");
  shutdown.join();
}

TEST_F(WatchHubTest, ShutdownCutsOffAClientThatReadsNothing) {
  AddJob("trainingJobs/a");
  Append("trainingJobs/a", 300, v1::TrainingJob::QUEUED, 100'000);  // more than is sent unread
  Stream slow(channel_, "trainingJobs/a");
  EXPECT_EQ(slow.Next(), 1);
  absl::SleepFor(absl::Milliseconds(200));
  const absl::Time start = absl::Now();
  watchers_->Drain();
  endpoint_->Shutdown(start + absl::Seconds(20));
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
}

TEST_F(WatchHubTest, AClientThatReadsNothingHoldsNothingUp) {
  AddJob("trainingJobs/a");
  Append("trainingJobs/a", 5000);
  Stream slow(channel_, "trainingJobs/a");
  EXPECT_EQ(slow.Next(), 1);
  Stream quick(channel_, "trainingJobs/a", 4900);
  for (int64_t i = 4900; i <= 5001; ++i) EXPECT_EQ(quick.Next(), i);
}

}  // namespace
}  // namespace tasuki
