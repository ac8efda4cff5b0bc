#include "client/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/errors.h"
#include "tests/client/fake_server.h"

namespace tasuki {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ClientOptions Quick() {
  ClientOptions options;
  options.first_backoff = absl::Milliseconds(1);
  options.max_backoff = absl::Milliseconds(10);
  return options;
}

Client ConnectTo(const FakeServer& server, ClientOptions options = Quick()) {
  return *Client::Connect(server.address(), std::move(options));
}

grpc::Status Unavailable() { return {grpc::StatusCode::UNAVAILABLE, "gone"}; }

TEST(Client, RefusesAnAddressWithoutAPort) {
  for (const char* address : {"", "localhost", "localhost:", ":8500", "localhost:99999", "a:b"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Client::Connect(address).status())) << address;
  }
}

TEST(Client, SaysWhichServerDoesNotAnswer) {
  Client client = *Client::Connect("127.0.0.1:1", Quick());
  const auto answer = client.GetServerInfo();
  EXPECT_TRUE(absl::IsUnavailable(answer.status()));
  EXPECT_THAT(std::string(answer.status().message()),
              HasSubstr("no Tasuki server answers at 127.0.0.1:1"));
}

TEST(Client, KeepsTheDetailsOfAnError) {
  FakeServer server;
  google::rpc::BadRequest faults;
  faults.add_field_violations()->set_field("fine_tuning.tasks[1].weight");
  faults.mutable_field_violations(0)->set_description("0 is not more than 0");
  server.create_job = [&](int, const auto&, auto*) {
    return ServerError(grpc::StatusCode::INVALID_ARGUMENT, "bad", "FIELD_INVALID", faults);
  };
  const auto job = ConnectTo(server).CreateTrainingJob({});
  EXPECT_EQ(job.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(job.status().message(), "bad");
  EXPECT_EQ(ReasonOf(job.status()), v1::FIELD_INVALID);
  ASSERT_EQ(FieldFaultsOf(job.status()).size(), 1);
  EXPECT_EQ(FieldFaultsOf(job.status())[0].field, "fine_tuning.tasks[1].weight");
  EXPECT_TRUE(job.status().GetPayload("type.googleapis.com/google.rpc.ErrorInfo").has_value());
}

TEST(Client, CallsAgainOnlyWhatWasUnavailable) {
  struct Case {
    grpc::Status first;
    int calls;
  };
  const Case cases[] = {
      {Unavailable(), 2},
      {grpc::Status::CANCELLED, 2},  // as a server does with calls that come while it stops
      {ServerError(grpc::StatusCode::UNAVAILABLE, "loading", "MODEL_LOADING"), 2},
      {ServerError(grpc::StatusCode::RESOURCE_EXHAUSTED, "full", "QUEUE_FULL", {}, 0), 2},
      {ServerError(grpc::StatusCode::RESOURCE_EXHAUSTED, "disk", "DISK_FULL"), 1},
      {{grpc::StatusCode::INTERNAL, "bug"}, 1},
      {{grpc::StatusCode::DEADLINE_EXCEEDED, "late"}, 1},
      {{grpc::StatusCode::ABORTED, "aborted"}, 1},
  };
  for (const Case& c : cases) {
    FakeServer server;
    int calls = 0;
    server.get_dataset = [&](int call, const auto&, auto*) {
      calls = call;
      return call == 1 ? c.first : grpc::Status::OK;
    };
    const auto dataset = ConnectTo(server).GetDataset("datasets/d");
    EXPECT_EQ(calls, c.calls) << c.first.error_message();
    EXPECT_EQ(dataset.ok(), c.calls == 2) << dataset.status();
  }
}

TEST(Client, GivesUpAfterTheAttemptsItIsAllowed) {
  FakeServer server;
  int calls = 0;
  server.get_dataset = [&](int call, const auto&, auto*) {
    calls = call;
    return Unavailable();
  };
  ClientOptions options = Quick();
  options.max_attempts = 3;
  EXPECT_TRUE(absl::IsUnavailable(ConnectTo(server, options).GetDataset("datasets/d").status()));
  EXPECT_EQ(calls, 3);
}

TEST(Client, RepeatsACreationWithTheSameRequestId) {
  FakeServer server;
  std::vector<std::string> ids;
  server.create_job = [&](int call, const v1::CreateTrainingJobRequest& request, auto*) {
    ids.push_back(request.request_id());
    return call == 1 ? Unavailable() : grpc::Status::OK;
  };
  EXPECT_TRUE(ConnectTo(server).CreateTrainingJob({}).ok());
  ASSERT_EQ(ids.size(), 2);
  EXPECT_EQ(ids[0], ids[1]);
  EXPECT_THAT(ids[0], testing::MatchesRegex(
                          "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"));
}

TEST(Client, TakesADeletionWhoseAnswerWasLostForDone) {
  FakeServer server;
  server.delete_dataset = [](int call, const auto&, auto*) {
    return call == 1 ? Unavailable() : grpc::Status(grpc::StatusCode::NOT_FOUND, "no such");
  };
  Client client = ConnectTo(server);
  EXPECT_TRUE(client.DeleteDataset("datasets/d").ok());
  EXPECT_TRUE(absl::IsNotFound(client.DeleteDataset("datasets/d")));
}

TEST(Client, EndsACallAtItsDeadline) {
  FakeServer server;
  ClientOptions options = Quick();
  options.classify_timeout = absl::Milliseconds(50);
  server.classify = [](int, const auto&, auto*) { return Unavailable(); };
  options.max_attempts = 1'000'000;
  const absl::Time begin = absl::Now();
  EXPECT_FALSE(ConnectTo(server, options).Classify({}).ok());
  EXPECT_LT(absl::Now() - begin, absl::Seconds(5));
}

TEST(Client, FollowsThePagesOfAList) {
  FakeServer server;
  server.list_datasets = [](int, const v1::ListDatasetsRequest& request,
                            v1::ListDatasetsResponse* answer) {
    const int page = request.page_token().empty() ? 0 : std::stoi(request.page_token());
    for (int i = 0; i < 2; ++i) answer->add_datasets()->set_name(absl::StrCat(page * 2 + i));
    if (page < 2) answer->set_next_page_token(absl::StrCat(page + 1));
    return grpc::Status::OK;
  };
  Client client = ConnectTo(server);
  EXPECT_EQ(client.ListDatasets()->size(), 6);
  const auto some = client.ListDatasets(3);
  ASSERT_EQ(some->size(), 3);
  EXPECT_EQ(some->back().name(), "2");
}

// ---- Watching ----

TEST(ClientWatch, SeesEachEventOnceAcrossLostStreams) {
  FakeServer server;
  std::vector<int64_t> asked;
  // Streams of three events; every second one repeats what the client must have seen already.
  server.watch_job = [&](int, const v1::WatchTrainingJobRequest& request, auto&, auto& writer) {
    asked.push_back(request.from_sequence());
    const int64_t from = request.from_sequence() - (asked.size() % 2 == 0 ? 1 : 0);
    for (int64_t sequence = from; sequence < from + 3; ++sequence) {
      if (sequence > 10) return grpc::Status::OK;
      writer.Write(MessageEvent(sequence));
    }
    return Unavailable();
  };
  std::vector<int64_t> seen;
  int lost = 0;
  const absl::Status status = ConnectTo(server).WatchTrainingJob(
      "trainingJobs/a", 0, [&](const auto& event) { seen.push_back(event.sequence()); },
      [&](const auto&) { ++lost; });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_THAT(seen, ElementsAre(1, 2, 3, 4, 5, 6, 7, 8, 9, 10));
  EXPECT_THAT(asked, ElementsAre(1, 4, 6, 9, 11));  // after the last event, too
  EXPECT_EQ(lost, 4);
}

// A watch of a job there gets event 1, and then nothing until the server ends.
std::unique_ptr<FakeServer> ServerOfOneEvent() {
  auto server = std::make_unique<FakeServer>();
  server->watch_job = [](int, const auto&, grpc::ServerContext& context, auto& writer) {
    writer.Write(MessageEvent(1));
    while (!context.IsCancelled()) std::this_thread::yield();
    return Unavailable();
  };
  return server;
}

TEST(ClientWatch, GoesOnWithAServerThatWasStartedAgain) {
  std::unique_ptr<FakeServer> first = ServerOfOneEvent();
  const std::string address = first->address();
  Client client = ConnectTo(*first);
  std::unique_ptr<FakeServer> second;
  std::vector<int64_t> seen;
  const absl::Status status = client.WatchTrainingJob(
      "trainingJobs/a", 1,
      [&](const auto& event) {
        seen.push_back(event.sequence());
        if (event.sequence() == 1) first.reset();
      },
      [&](const auto&) {
        if (second) return;
        second = std::make_unique<FakeServer>(address);
        second->watch_job = [](int, const v1::WatchTrainingJobRequest& request, auto&,
                               auto& writer) {
          writer.Write(MessageEvent(request.from_sequence()));
          return grpc::Status::OK;
        };
      });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_THAT(seen, ElementsAre(1, 2));
}

TEST(ClientWatch, SeesAServerThatIsBackBeforeTheNextAttemptIsDue) {
  std::unique_ptr<FakeServer> first = ServerOfOneEvent();
  const std::string address = first->address();
  ClientOptions options;
  options.first_backoff = options.max_backoff = absl::Minutes(1);
  Client client = ConnectTo(*first, options);
  std::unique_ptr<FakeServer> second;
  absl::Time back;
  std::thread restart;
  const absl::Status status = client.WatchTrainingJob(
      "trainingJobs/a", 1,
      [&](const auto& event) {
        if (event.sequence() == 1) first.reset();
      },
      [&](const auto&) {
        ASSERT_FALSE(restart.joinable()) << "lost more than once";
        restart = std::thread([&] {
          absl::SleepFor(absl::Seconds(3));
          second = std::make_unique<FakeServer>(address);
          second->watch_job = [](int, const v1::WatchTrainingJobRequest& request, auto&,
                                 auto& writer) {
            writer.Write(MessageEvent(request.from_sequence()));
            return grpc::Status::OK;
          };
          back = absl::Now();
        });
      });
  const absl::Time seen = absl::Now();
  restart.join();
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_LT(seen - back, absl::Seconds(2));
}

TEST(ClientWatch, SaysThatAnEventIsMissing) {
  FakeServer server;
  server.watch_job = [](int, const auto&, auto&, auto& writer) {
    writer.Write(MessageEvent(1));
    writer.Write(MessageEvent(3));
    return grpc::Status::OK;
  };
  const absl::Status status =
      ConnectTo(server).WatchTrainingJob("trainingJobs/a", 1, [](const auto&) {});
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
}

TEST(ClientWatch, GivesUpOnAServerThatStaysAway) {
  ClientOptions options = Quick();
  options.patience = absl::Milliseconds(30);
  Client client = *Client::Connect("127.0.0.1:1", options);
  EXPECT_TRUE(absl::IsUnavailable(
      client.WatchTrainingJob("trainingJobs/a", 1, [](const auto&) { FAIL(); })));
}

TEST(ClientWatch, EndsWhenItIsTold) {
  FakeServer server;
  server.watch_job = [](int, const auto&, grpc::ServerContext& context, auto& writer) {
    writer.Write(MessageEvent(1));
    while (!context.IsCancelled()) std::this_thread::yield();
    return grpc::Status::CANCELLED;
  };
  std::stop_source stop;
  ClientOptions options = Quick();
  options.stop = stop.get_token();
  const absl::Status status =
      ConnectTo(server, options).WatchTrainingJob("trainingJobs/a", 1, [&](const auto&) {
        stop.request_stop();
      });
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
}

TEST(ClientWatch, EndsWhenItIsToldBetweenAttempts) {
  std::stop_source stop;
  ClientOptions options;
  options.first_backoff = absl::Minutes(1);
  options.stop = stop.get_token();
  Client client = *Client::Connect("127.0.0.1:1", options);
  absl::Time told;
  std::thread interrupt;
  const absl::Status status = client.WatchTrainingJob(
      "trainingJobs/a", 1, [](const auto&) { FAIL(); },
      [&](const auto&) {
        interrupt = std::thread([&] {
          absl::SleepFor(absl::Milliseconds(300));
          told = absl::Now();
          stop.request_stop();
        });
      });
  const absl::Time ended = absl::Now();
  interrupt.join();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_LT(ended - told, absl::Seconds(1));
}

}  // namespace
}  // namespace tasuki
