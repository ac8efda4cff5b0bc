#include "server/rpc/access.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <mutex>
#include <sstream>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/files/durable.h"
#include "model/files/sha256.h"
#include "server/rpc/endpoint.h"
#include "spdlog/sinks/ostream_sink.h"
#include "spdlog/spdlog.h"
#include "tasuki/v1/datasets.grpc.pb.h"
#include "tasuki/v1/server.grpc.pb.h"
#include "tasuki/v1/training.grpc.pb.h"
#include "tests/testing/any_call.h"
#include "tests/testing/certificates.h"

namespace tasuki {
namespace {

using testing::HasSubstr;

constexpr char kInfo[] = "/tasuki.v1.ServerService/GetServerInfo";
constexpr char kUpload[] = "/tasuki.v1.DatasetService/UploadDataset";
constexpr char kWatch[] = "/tasuki.v1.TrainingService/WatchTrainingJob";
constexpr char kCreate[] = "/tasuki.v1.TrainingService/CreateTrainingJob";

// One service for each kind of method that counts how often its code ran.
class Info final : public v1::ServerService::Service {
 public:
  grpc::Status GetServerInfo(grpc::ServerContext* context, const v1::GetServerInfoRequest*,
                             v1::ServerInfo* info) override {
    ++calls;
    const std::lock_guard lock(mutex_);
    caller_ = CallerOf(*context);
    info->set_version("1.2.3");
    return grpc::Status::OK;
  }
  // Of the last call.
  std::string caller() const {
    const std::lock_guard lock(mutex_);
    return caller_;
  }
  std::atomic<int> calls = 0;

 private:
  mutable std::mutex mutex_;
  std::string caller_;
};

class Upload final : public v1::DatasetService::Service {
 public:
  grpc::Status UploadDataset(grpc::ServerContext* context,
                             grpc::ServerReader<v1::UploadDatasetRequest>* reader,
                             v1::Dataset*) override {
    ++calls;
    v1::UploadDatasetRequest request;
    while (reader->Read(&request)) ++messages;
    cancelled = context->IsCancelled();
    return grpc::Status::OK;
  }
  std::atomic<int> calls = 0, messages = 0;
  std::atomic<bool> cancelled = false;
};

// Watches send one message and stay open until they are cancelled.
class Watch final : public v1::TrainingService::WithCallbackMethod_WatchTrainingJob<
                        v1::TrainingService::Service> {
 public:
  grpc::ServerWriteReactor<v1::WatchTrainingJobResponse>* WatchTrainingJob(
      grpc::CallbackServerContext*, const v1::WatchTrainingJobRequest* request) override {
    class Open : public grpc::ServerWriteReactor<v1::WatchTrainingJobResponse> {
     public:
      explicit Open(Watch& watch) : watch_(watch) { StartWrite(&response_); }
      void OnCancel() override { Finish(grpc::Status::CANCELLED); }
      void OnDone() override {
        ++watch_.ended;
        delete this;
      }

     private:
      Watch& watch_;
      v1::WatchTrainingJobResponse response_;
    };
    ++calls;
    name = request->name();
    return new Open(*this);
  }
  std::atomic<int> calls = 0, ended = 0;
  std::string name;
};

class AccessTest : public testing::Test {
 protected:
  AccessTest() {
    std::string root = testing::TempDir() + "access.XXXXXX";
    root_ = mkdtemp(root.data());
    options_.read_every = absl::Milliseconds(20);
  }
  ~AccessTest() override {
    endpoint_.reset();
    access_.reset();
    std::filesystem::remove_all(root_);
  }

  void Write(const std::string& name, const std::string& text, int mode = 0600) {
    ASSERT_TRUE(ReplaceFile(root_ + "/" + name, text).ok());
    ASSERT_EQ(chmod((root_ + "/" + name).c_str(), mode), 0);
  }

  static std::string Line(const std::string& name, const std::string& role,
                          const std::string& token) {
    return absl::StrCat(name, " ", role, " sha256:", Sha256Of(token), "\n");
  }

  void UseTokens(const std::string& text) {
    options_.tokens_file = root_ + "/tokens";
    Write("tokens", text);
  }

  void UseTls(const TestCa::Issued& issued, const std::string& client_ca = "") {
    options_.tls_certificate = root_ + "/certificate";
    options_.tls_key = root_ + "/key";
    Write("certificate", issued.certificate);
    Write("key", issued.key);
    if (!client_ca.empty()) {
      options_.tls_client_ca = root_ + "/client_ca";
      Write("client_ca", client_ca);
    }
  }

  void Listen() {
    auto access = Access::Open(options_, metrics_);
    ASSERT_TRUE(access.ok()) << access.status();
    access_ = *std::move(access);
    Endpoint::Options options;
    options.address = "127.0.0.1:0";
    options.services = {&info_, &upload_, &watch_};
    options.access = access_.get();
    auto endpoint = Endpoint::Listen(options, metrics_);
    ASSERT_TRUE(endpoint.ok()) << endpoint.status();
    endpoint_ = *std::move(endpoint);
  }

  // A channel with a connection of its own.
  std::shared_ptr<grpc::Channel> Connect(
      const std::shared_ptr<grpc::ChannelCredentials>& credentials =
          grpc::InsecureChannelCredentials()) const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel(endpoint_->address(), credentials, arguments);
  }

  static std::shared_ptr<grpc::ChannelCredentials> Tls(const std::string& ca,
                                                       const TestCa::Issued& client = {}) {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = ca;
    options.pem_cert_chain = client.certificate;
    options.pem_private_key = client.key;
    return grpc::SslCredentials(options);
  }

  // Whether it comes true within a time that is long for what it waits for.
  static bool Comes(const std::function<bool()>& what) {
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (!what()) {
      if (absl::Now() > deadline) return false;
      absl::SleepFor(absl::Milliseconds(10));
    }
    return true;
  }

  double Value(const std::string& series) const {
    const std::string text = metrics_.Text();
    const size_t at = text.find("\n" + series + " ");
    return at == std::string::npos ? -1 : std::stod(text.substr(at + series.size() + 2));
  }

  std::string root_;
  Access::Options options_;
  Metrics metrics_;
  Info info_;
  Upload upload_;
  Watch watch_;
  std::unique_ptr<Access> access_;
  std::unique_ptr<Endpoint> endpoint_;
};

TEST_F(AccessTest, WithoutTokensEverybodyMayCallWhatHasARow) {
  ASSERT_NO_FATAL_FAILURE(Listen());
  const auto channel = Connect();
  EXPECT_TRUE(CallAny(channel, kInfo).status.ok());
  EXPECT_EQ(CallAny(channel, kCreate).status.error_code(), grpc::StatusCode::UNIMPLEMENTED)
      << "the code that generated services have for it";
  EXPECT_EQ(RolesOf("/tasuki.v1.ServerService/GetServerInf"), Roles());
}

TEST_F(AccessTest, ACallerIsATokenOrElseAConnection) {
  ASSERT_NO_FATAL_FAILURE(Listen());
  const auto one = Connect(), other = Connect();
  const auto caller = [&](const std::shared_ptr<grpc::Channel>& channel,
                          const std::string& token = "") {
    EXPECT_TRUE(CallAny(channel, kInfo, token).status.ok());
    return info_.caller();
  };
  EXPECT_EQ(caller(one), caller(one));
  EXPECT_NE(caller(one), caller(other));
  EXPECT_EQ(caller(one, "secret"), caller(other, "secret"));
  EXPECT_NE(caller(one, "secret"), caller(one, "another"));
  EXPECT_NE(caller(one, "secret"), caller(one));
  EXPECT_THAT(caller(one, "secret"), testing::Not(HasSubstr("secret")));
}

TEST_F(AccessTest, ARefusalSaysWhyWithDetails) {
  UseTokens(Line("app1", "classify", "secret"));
  ASSERT_NO_FATAL_FAILURE(Listen());
  const auto channel = Connect();
  AnyAnswer answer = CallAny(channel, kInfo);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(answer.Reason(), "TOKEN_MISSING");
  EXPECT_THAT(answer.status.error_message(), HasSubstr("authorization: Bearer"));
  for (const std::string& token :
       {std::string("secre"), std::string(5000, 'x'), Sha256Of("secret"), std::string("-")}) {
    answer = CallAny(channel, kInfo, token);
    EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAUTHENTICATED);
    EXPECT_EQ(answer.Reason(), "TOKEN_INVALID");
    EXPECT_EQ(answer.status.error_message().find(token), std::string::npos);
  }
  answer = CallAny(channel, kCreate, "secret");
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(answer.Reason(), "ROLE_INSUFFICIENT");
  EXPECT_EQ(answer.status.error_message(),
            "The token \"app1\" has the role classify; this is for train or admin. Permission "
            "'CreateTrainingJob' denied on resource 'tasuki.v1.TrainingService' (or it might not "
            "exist).");
  EXPECT_EQ(info_.calls, 0);
  EXPECT_TRUE(CallAny(channel, kInfo, "secret").status.ok());
  EXPECT_EQ(info_.calls, 1);

  EXPECT_EQ(Value("tasuki_access_refusals_total{reason=\"token_missing\"}"), 1);
  EXPECT_EQ(Value("tasuki_access_refusals_total{reason=\"token_invalid\"}"), 4);
  EXPECT_EQ(Value("tasuki_access_refusals_total{reason=\"role_insufficient\"}"), 1);
  EXPECT_EQ(Value("tasuki_access_reloads_total{file=\"tokens\",result=\"ok\"}"), 1);
  EXPECT_THAT(metrics_.Text(), HasSubstr("grpc_code=\"Unauthenticated\",grpc_method="
                                         "\"GetServerInfo\",grpc_service=\"tasuki.v1."
                                         "ServerService\",grpc_type=\"unary\"} 5"));
}

TEST_F(AccessTest, NoTokenIsEverWrittenAnywhere) {
  const auto before = spdlog::default_logger();
  std::ostringstream log;
  const auto logger = std::make_shared<spdlog::logger>(
      "test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log));
  logger->set_level(spdlog::level::trace);
  spdlog::set_default_logger(logger);
  UseTokens(Line("app1", "classify", "canary-good"));
  ASSERT_NO_FATAL_FAILURE(Listen());
  const auto channel = Connect();
  EXPECT_TRUE(CallAny(channel, kInfo, "canary-good").status.ok());
  EXPECT_FALSE(CallAny(channel, kCreate, "canary-good").status.ok());
  EXPECT_FALSE(CallAny(channel, kInfo, "canary-bad").status.ok());
  Write("tokens", "app1 read canary-instead-of-its-hash\n");
  EXPECT_TRUE(Comes(
      [&] { return Value("tasuki_access_reloads_total{file=\"tokens\",result=\"error\"}") == 1; }));
  endpoint_.reset();
  access_.reset();
  spdlog::set_default_logger(before);
  EXPECT_THAT(log.str(), HasSubstr("app1"));
  EXPECT_THAT(log.str(), HasSubstr("line 1"));
  EXPECT_THAT(log.str() + metrics_.Text(), testing::Not(HasSubstr("canary")));
}

TEST_F(AccessTest, TheSchemeIsBearerHoweverItIsWritten) {
  UseTokens(Line("app1", "read", "secret"));
  ASSERT_NO_FATAL_FAILURE(Listen());
  const auto stub = v1::ServerService::NewStub(Connect());
  const auto call = [&](const std::string& header) {
    grpc::ClientContext context;
    context.AddMetadata("authorization", header);
    v1::ServerInfo info;
    return stub->GetServerInfo(&context, {}, &info).error_code();
  };
  EXPECT_EQ(call("Bearer secret"), grpc::StatusCode::OK);
  EXPECT_EQ(call("bearer  secret"), grpc::StatusCode::OK);
  EXPECT_EQ(call("Basic secret"), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(call("secret"), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(call("Bearer"), grpc::StatusCode::UNAUTHENTICATED);
}

// The order in which a caller learns things: whether it may ask, then whether its question is one.
TEST_F(AccessTest, NothingOfARequestIsLookedAtBeforeTheCallerMayCall) {
  UseTokens(Line("ops", "admin", "secret"));
  ASSERT_NO_FATAL_FAILURE(Listen());
  const auto channel = Connect();
  const std::string garbage = "\xff\xff\xff\xff";
  for (const char* method : {kInfo, kWatch, kUpload, kCreate}) {
    EXPECT_EQ(CallAny(channel, method, "", garbage).Reason(), "TOKEN_MISSING") << method;
  }
  EXPECT_EQ(upload_.calls, 0);
  EXPECT_EQ(watch_.calls, 0);
  EXPECT_EQ(CallAny(channel, kInfo, "secret", garbage).status.error_code(),
            grpc::StatusCode::INTERNAL);
  EXPECT_EQ(info_.calls, 0);

  // And what may be called comes through unharmed, of every kind.
  v1::UploadDatasetRequest part;
  part.set_chunk("abc");
  EXPECT_TRUE(CallAny(channel, kUpload, "secret", part.SerializeAsString()).status.ok());
  EXPECT_EQ(upload_.messages, 1);
  v1::WatchTrainingJobRequest watch;
  watch.set_name("trainingJobs/x");
  EXPECT_EQ(CallAny(channel, kWatch, "secret", watch.SerializeAsString()).messages.size(), 1);
  EXPECT_EQ(watch_.name, "trainingJobs/x");
}

TEST_F(AccessTest, HealthIsForAllAndReflectionForWhoHasAToken) {
  UseTokens(Line("app1", "classify", "secret"));
  ASSERT_NO_FATAL_FAILURE(Listen());
  const auto channel = Connect();
  EXPECT_TRUE(CallAny(channel, "/grpc.health.v1.Health/Check").status.ok());
  EXPECT_EQ(CallAny(channel, "/grpc.health.v1.Health/Watch").messages.size(), 1);
  AnyAnswer answer = CallAny(channel, kReflectionPath, "", "\x3a\x01*");
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(answer.messages.size(), 0);
  EXPECT_EQ(MethodsOfServer(channel, "wrong").size(), 0);
  EXPECT_GT(MethodsOfServer(channel, "secret").size(), 10);
  // Clients ask for version 1 first, and go on to v1alpha when there is none.
  for (const char* token : {"", "wrong", "secret"}) {
    answer = CallAny(channel, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", token,
                     "\x3a\x01*");
    EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNIMPLEMENTED) << token;
  }
}

TEST_F(AccessTest, TokensAreReadAgainAndABrokenFileChangesNothing) {
  UseTokens(Line("app1", "read", "old"));
  ASSERT_NO_FATAL_FAILURE(Listen());
  const auto channel = Connect();
  const auto may = [&](const std::string& token) {
    return CallAny(channel, kInfo, token).status.ok();
  };
  EXPECT_TRUE(may("old"));
  Write("tokens", Line("app1", "read", "new"));
  EXPECT_TRUE(Comes([&] { return may("new"); }));
  EXPECT_FALSE(may("old"));
  EXPECT_EQ(Value("tasuki_access_reloads_total{file=\"tokens\",result=\"ok\"}"), 2);

  const std::string errors = "tasuki_access_reloads_total{file=\"tokens\",result=\"error\"}";
  Write("tokens", Line("app1", "owner", "newer"));
  EXPECT_TRUE(Comes([&] { return Value(errors) == 1; }));
  EXPECT_TRUE(may("new"));
  std::filesystem::remove(root_ + "/tokens");
  EXPECT_TRUE(Comes([&] { return Value(errors) == 2; }));
  EXPECT_TRUE(may("new"));
  absl::SleepFor(5 * options_.read_every);
  EXPECT_EQ(Value(errors), 2) << "the same fault counts once";
  Write("tokens", "");
  EXPECT_TRUE(Comes([&] { return !may("new"); })) << "an empty file lets nobody in";
}

TEST_F(AccessTest, AStreamEndsWhenItsTokenIsRevokedAndOthersGoOn) {
  UseTokens(Line("one", "read", "one") + Line("two", "read", "two") + Line("up", "train", "up"));
  ASSERT_NO_FATAL_FAILURE(Listen());
  const auto channel = Connect();
  const auto watches = v1::TrainingService::NewStub(channel);
  const auto watch = [&](grpc::ClientContext& context, const std::string& token) {
    context.AddMetadata("authorization", "Bearer " + token);
    auto stream = watches->WatchTrainingJob(&context, {});
    v1::WatchTrainingJobResponse response;
    EXPECT_TRUE(stream->Read(&response));
    return stream;
  };
  grpc::ClientContext c1, c2, c3;
  const auto one = watch(c1, "one");
  const auto two = watch(c2, "two");
  c3.AddMetadata("authorization", "Bearer up");
  v1::Dataset dataset;
  const auto up = v1::DatasetService::NewStub(channel)->UploadDataset(&c3, &dataset);
  EXPECT_TRUE(up->Write({}));
  EXPECT_TRUE(Comes([&] { return upload_.messages == 1; }));

  Write("tokens", Line("two", "read", "two") + Line("up", "read", "up"));
  v1::WatchTrainingJobResponse response;
  EXPECT_FALSE(one->Read(&response));
  const grpc::Status revoked = one->Finish();
  EXPECT_EQ(revoked.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_THAT(revoked.error_message(), HasSubstr("revoked"));
  EXPECT_TRUE(Comes([&] { return watch_.ended == 1; }));
  const grpc::Status demoted = up->Finish();
  EXPECT_EQ(demoted.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_TRUE(Comes([&] { return upload_.cancelled.load(); }));

  absl::SleepFor(5 * options_.read_every);
  EXPECT_EQ(watch_.ended, 1);
  c2.TryCancel();
  EXPECT_EQ(two->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(AccessTest, WhatCannotBeUsedIsNamed) {
  const TestCa ca("root"), other("other");
  const auto fault = [&] {
    const auto access = Access::Open(options_, metrics_);
    EXPECT_TRUE(absl::IsFailedPrecondition(access.status())) << access.status();
    return std::string(access.status().message());
  };
  options_.tokens_file = root_ + "/nothing";
  EXPECT_THAT(fault(), HasSubstr(root_ + "/nothing"));
  UseTokens("app1\n");
  EXPECT_THAT(fault(), HasSubstr("line 1"));
  options_.tokens_file.clear();

  const TestCa::Issued good = ca.Issue();
  UseTls({good.certificate, ca.Issue().key});
  EXPECT_THAT(fault(), HasSubstr("is not the key of the certificate"));
  UseTls({"nothing", good.key});
  EXPECT_THAT(fault(), HasSubstr("certificate holds no PEM certificate"));
  UseTls({good.certificate, good.certificate});
  EXPECT_THAT(fault(), HasSubstr("key holds no PEM private key"));
  UseTls(ca.Issue(absl::Now() - absl::Minutes(1)));
  EXPECT_THAT(fault(), HasSubstr("expired at "));
  UseTls(ca.Issue(absl::Now() + absl::Hours(2), absl::Now() + absl::Hours(1)));
  EXPECT_THAT(fault(), HasSubstr("is not valid before "));
  UseTls(good, "nothing");
  EXPECT_THAT(fault(), HasSubstr("client_ca holds no PEM certificate"));
  UseTls(good);
  options_.tls_client_ca.clear();
  Write("key", good.key, 0644);
  EXPECT_THAT(fault(), HasSubstr("its mode is 0644"));
  std::filesystem::remove(root_ + "/key");
  EXPECT_THAT(fault(), HasSubstr(root_ + "/key"));
}

TEST_F(AccessTest, TlsTellsServersAndClientsApart) {
  const TestCa ca("root"), other("other"), clients("clients");
  UseTls(ca.Issue(), clients.pem());
  ASSERT_NO_FATAL_FAILURE(Listen());
  const TestCa::Issued client = clients.Issue();
  const auto code = [&](const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
    return CallAny(Connect(credentials), kInfo).status.error_code();
  };
  EXPECT_EQ(code(Tls(ca.pem(), client)), grpc::StatusCode::OK);
  EXPECT_EQ(code(grpc::InsecureChannelCredentials()), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(code(Tls(other.pem(), client)), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(code(Tls(ca.pem())), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(code(Tls(ca.pem(), other.Issue())), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(code(Tls(ca.pem(), clients.Issue(absl::Now() - absl::Minutes(1)))),
            grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(code(Tls(ca.pem(), client)), grpc::StatusCode::OK) << "none of them did any harm";
  EXPECT_EQ(info_.calls, 2);
}

TEST_F(AccessTest, CertificatesAreReadAgainAndNoConnectionNotices) {
  const TestCa ca("root"), next("next");
  UseTls(ca.Issue());
  ASSERT_NO_FATAL_FAILURE(Listen());
  const auto before = Connect(Tls(ca.pem()));
  EXPECT_TRUE(CallAny(before, kInfo).status.ok());
  const auto expiry = Value("tasuki_tls_certificate_expiry_timestamp_seconds");
  EXPECT_NEAR(expiry, absl::ToDoubleSeconds(absl::Now() + absl::Hours(1) - absl::UnixEpoch()), 60);

  // File by file: between the two the key does not fit, which must end nothing.
  const TestCa::Issued issued = next.Issue(absl::Now() + absl::Hours(9));
  const std::string errors = "tasuki_access_reloads_total{file=\"certificates\",result=\"error\"}";
  Write("certificate", issued.certificate);
  EXPECT_TRUE(Comes([&] { return Value(errors) == 1; }));
  EXPECT_TRUE(CallAny(Connect(Tls(ca.pem())), kInfo).status.ok());
  Write("key", issued.key);
  EXPECT_TRUE(Comes([&] { return CallAny(Connect(Tls(next.pem())), kInfo).status.ok(); }));
  EXPECT_GT(Value("tasuki_tls_certificate_expiry_timestamp_seconds"), expiry + 60);
  EXPECT_EQ(CallAny(Connect(Tls(ca.pem())), kInfo).status.error_code(),
            grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(CallAny(before, kInfo).status.ok()) << "established before";

  const double count = Value(errors);
  Write("certificate", "nothing");
  EXPECT_TRUE(Comes([&] { return Value(errors) > count; }));
  EXPECT_TRUE(CallAny(Connect(Tls(next.pem())), kInfo).status.ok());
}

TEST_F(AccessTest, NoConnectionFailsWhileCertificatesChange) {
  const TestCa ca("root");
  options_.read_every = absl::Milliseconds(1);
  UseTls(ca.Issue());
  ASSERT_NO_FATAL_FAILURE(Listen());
  std::atomic<bool> stop = false;
  std::atomic<int> made = 0, failed = 0;
  std::vector<std::thread> callers;
  for (int i = 0; i < 2; ++i) {
    callers.emplace_back([&] {
      while (!stop) {
        if (!CallAny(Connect(Tls(ca.pem())), kInfo).status.ok()) ++failed;
        ++made;
      }
    });
  }
  const std::string reloads = "tasuki_access_reloads_total{file=\"certificates\",result=\"ok\"}";
  for (int i = 2; i <= 20; ++i) {
    const TestCa::Issued next = ca.Issue();
    Write("key", next.key);
    Write("certificate", next.certificate);
    EXPECT_TRUE(Comes([&] { return Value(reloads) == i; }));
    const int before = made;
    EXPECT_TRUE(Comes([&] { return made > before + 1; }));
  }
  stop = true;
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(failed, 0) << "of " << made;
}

TEST_F(AccessTest, AnotherCaForClientsHoldsForNewConnections) {
  const TestCa ca("root"), clients("clients"), next("next");
  UseTls(ca.Issue(), clients.pem());
  ASSERT_NO_FATAL_FAILURE(Listen());
  const auto with = [&](const TestCa& signer) { return Tls(ca.pem(), signer.Issue()); };
  EXPECT_TRUE(CallAny(Connect(with(clients)), kInfo).status.ok());
  EXPECT_FALSE(CallAny(Connect(with(next)), kInfo).status.ok());
  Write("client_ca", clients.pem() + next.pem());
  EXPECT_TRUE(Comes([&] { return CallAny(Connect(with(next)), kInfo).status.ok(); }));
  EXPECT_TRUE(CallAny(Connect(with(clients)), kInfo).status.ok());
  Write("client_ca", next.pem());
  EXPECT_TRUE(Comes([&] { return !CallAny(Connect(with(clients)), kInfo).status.ok(); }));
}

}  // namespace
}  // namespace tasuki
