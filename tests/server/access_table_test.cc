// Every method × every role × every way to connect, on a whole server.

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "model/files/durable.h"
#include "model/files/sha256.h"
#include "server/rpc/roles.h"
#include "server/server.h"
#include "tests/testing/any_call.h"
#include "tests/testing/certificates.h"

namespace tasuki {
namespace {

using grpc::StatusCode;
using testing::Contains;
using testing::HasSubstr;

const std::map<std::string, Role> kTokens = {{"token-r", Role::kRead},
                                             {"token-c", Role::kClassify},
                                             {"token-t", Role::kTrain},
                                             {"token-a", Role::kAdmin}};

class AccessTableTest : public testing::Test {
 protected:
  AccessTableTest() : ca_("root"), other_("other"), clients_("clients") {
    std::string root = testing::TempDir() + "table.XXXXXX";
    root_ = mkdtemp(root.data());
    options_.data_dir = root_ + "/data";
    options_.listen = "127.0.0.1:0";
    options_.metrics_listen = options_.health_listen = "";
    options_.device = "cpu";
    options_.kernels = "portable";
    options_.serving_threads = options_.training_threads = 1;
    options_.trainer = "/bin/false";
    options_.drain_seconds = 1;
    options_.tokens_file = root_ + "/tokens";
    std::string lines;
    for (const auto& [token, role] : kTokens) {
      absl::StrAppend(&lines, "of-", NameOf(role), " ", NameOf(role), " sha256:", Sha256Of(token),
                      "\n");
    }
    EXPECT_TRUE(ReplaceFile(options_.tokens_file, lines).ok());
  }
  ~AccessTableTest() override {
    server_.reset();
    std::filesystem::remove_all(root_);
  }

  void UseTls(const TestCa::Issued& issued, bool of_clients) {
    const auto write = [&](const char* name, const std::string& text) {
      const std::string path = absl::StrCat(root_, "/", name);
      EXPECT_TRUE(ReplaceFile(path, text).ok());
      std::filesystem::permissions(path, std::filesystem::perms(0600));
      return path;
    };
    options_.tls_certificate = write("certificate", issued.certificate);
    options_.tls_key = write("key", issued.key);
    if (of_clients) options_.tls_client_ca = write("client_ca", clients_.pem());
  }

  void Start() {
    auto server = Server::Start(options_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  std::shared_ptr<grpc::Channel> Connect(
      const std::shared_ptr<grpc::ChannelCredentials>& credentials) const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel(server_->listen(), credentials, arguments);
  }

  static std::shared_ptr<grpc::ChannelCredentials> Tls(const std::string& ca,
                                                       const TestCa::Issued& client = {}) {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = ca;
    options.pem_cert_chain = client.certificate;
    options.pem_private_key = client.key;
    return grpc::SslCredentials(options);
  }

  // What every method answers to every token, none, and a bad one.
  static void CheckTable(const std::shared_ptr<grpc::Channel>& channel) {
    const auto methods = MethodsOfServer(channel, "token-a");
    ASSERT_THAT(methods, Contains("/tasuki.v1.ServerService/GetServerInfo"));
    ASSERT_THAT(methods, Contains("/inference.GRPCInferenceService/ModelInfer"));
    ASSERT_THAT(methods, Contains("/grpc.health.v1.Health/Check"));
    ASSERT_THAT(methods, Contains(std::string(kReflectionPath)));
    for (const std::string& method : methods) {
      const Roles roles = RolesOf(method);
      EXPECT_NE(roles, Roles()) << method << " has no row in server/rpc/roles.cc";
      const bool for_all = roles == Roles::Everybody();
      EXPECT_EQ(for_all, absl::StartsWith(method, "/grpc.health.") ||
                             method == "/inference.GRPCInferenceService/ServerLive" ||
                             method == "/inference.GRPCInferenceService/ServerReady")
          << method;
      const auto expect = [&](const std::string& token, StatusCode refusal, const char* reason) {
        const AnyAnswer answer = CallAny(channel, method, token);
        EXPECT_EQ(answer.status.error_code(), refusal) << method << " with " << token;
        EXPECT_TRUE(answer.messages.empty()) << method;
        // gRPC's own handler of reflection sends no details.
        if (method != kReflectionPath) {
          EXPECT_EQ(answer.Reason(), reason) << method << " with " << token;
        }
      };
      const auto expect_allowed = [&](const std::string& token) {
        const AnyAnswer answer = CallAny(channel, method, token);
        // An empty request does nothing; what stays open is cancelled by this side; a method that
        // is declared only is guarded, too.
        const bool open = method == "/grpc.health.v1.Health/Watch";
        EXPECT_THAT(answer.status.error_code(),
                    testing::AnyOf(open ? StatusCode::CANCELLED : StatusCode::OK,
                                   StatusCode::INVALID_ARGUMENT, StatusCode::UNIMPLEMENTED))
            << method << " with " << token << ": " << answer.status.error_message();
        EXPECT_THAT(answer.Reason(), testing::AnyOf("", "FIELD_INVALID", "DATASET_EMPTY"))
            << method << " with " << token;
      };
      if (for_all) {
        expect_allowed("");
        expect_allowed("wrong");
      } else {
        expect("", StatusCode::UNAUTHENTICATED, "TOKEN_MISSING");
        expect("wrong", StatusCode::UNAUTHENTICATED, "TOKEN_INVALID");
      }
      for (const auto& [token, role] : kTokens) {
        if (roles.Has(role)) {
          expect_allowed(token);
        } else {
          expect(token, StatusCode::PERMISSION_DENIED, "ROLE_INSUFFICIENT");
        }
      }
    }
  }

  // Where no connection comes about, with whatever token.
  static void CheckUnreachable(const std::shared_ptr<grpc::Channel>& channel,
                               const std::vector<std::string>& methods) {
    for (const std::string& method : methods) {
      for (const char* token : {"", "wrong", "token-r", "token-c", "token-t", "token-a"}) {
        const AnyAnswer answer = CallAny(channel, method, token);
        EXPECT_EQ(answer.status.error_code(), StatusCode::UNAVAILABLE) << method;
        EXPECT_TRUE(answer.messages.empty());
      }
    }
  }

  const TestCa ca_, other_, clients_;
  std::string root_;
  Options options_;
  std::unique_ptr<Server> server_;
};

TEST_F(AccessTableTest, Plain) {
  ASSERT_NO_FATAL_FAILURE(Start());
  CheckTable(Connect(grpc::InsecureChannelCredentials()));
}

TEST_F(AccessTableTest, Tls) {
  UseTls(ca_.Issue(), false);
  ASSERT_NO_FATAL_FAILURE(Start());
  const auto good = Connect(Tls(ca_.pem()));
  CheckTable(good);
  const auto methods = MethodsOfServer(good, "token-a");
  CheckUnreachable(Connect(grpc::InsecureChannelCredentials()), methods);
  CheckUnreachable(Connect(Tls(other_.pem())), methods);
}

TEST_F(AccessTableTest, MutualTls) {
  UseTls(ca_.Issue(), true);
  ASSERT_NO_FATAL_FAILURE(Start());
  const auto good = Connect(Tls(ca_.pem(), clients_.Issue()));
  CheckTable(good);
  const auto methods = MethodsOfServer(good, "token-a");
  CheckUnreachable(Connect(Tls(ca_.pem())), methods);                  // no certificate
  CheckUnreachable(Connect(Tls(ca_.pem(), other_.Issue())), methods);  // of the wrong CA
  CheckUnreachable(Connect(Tls(other_.pem(), clients_.Issue())), methods);
  CheckUnreachable(Connect(Tls(ca_.pem(), clients_.Issue(absl::Now() - absl::Minutes(1)))),
                   methods);  // expired
}

TEST_F(AccessTableTest, ServersWhoseCertificateExpiresOrIsOfAnotherHost) {
  const absl::Time expiry = absl::Now() + absl::Seconds(4);
  UseTls(ca_.Issue(expiry), false);
  ASSERT_NO_FATAL_FAILURE(Start());
  const auto established = Connect(Tls(ca_.pem()));
  const auto methods = MethodsOfServer(established, "token-a");
  ASSERT_GT(methods.size(), 30);
  absl::SleepFor(expiry + absl::Seconds(1.1) - absl::Now());
  CheckUnreachable(Connect(Tls(ca_.pem())), methods);
  server_.reset();

  UseTls(ca_.Issue(absl::Now() + absl::Hours(1), absl::Now() - absl::Hours(1), "DNS:elsewhere"),
         false);
  ASSERT_NO_FATAL_FAILURE(Start());
  CheckUnreachable(Connect(Tls(ca_.pem())), methods);
  server_.reset();

  UseTls(ca_.Issue(absl::Now() - absl::Seconds(2)), false);
  const auto refused = Server::Start(options_);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused.status()));
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("expired at"));
}

// The policy itself, in the words of docs/security.md; the tests above only hold the server to it.
TEST(RolesTable, SaysWhatTheDocumentSays) {
  const auto may = [](Role role, const char* method) {
    return RolesOf(absl::StrCat("/tasuki.v1.", method)).Has(role);
  };
  EXPECT_TRUE(may(Role::kClassify, "ClassificationService/Classify"));
  EXPECT_TRUE(may(Role::kClassify, "ModelService/GetModel"));
  EXPECT_TRUE(may(Role::kClassify, "ServerService/GetServerInfo"));
  for (const char* method : {"DatasetService/ListDatasets", "DatasetService/InspectDataset",
                             "TrainingService/WatchTrainingJob", "ModelService/ExportModelVersion",
                             "TrainingService/DownloadPredictions"}) {
    EXPECT_FALSE(may(Role::kClassify, method)) << method;
    EXPECT_TRUE(may(Role::kRead, method)) << method;
    EXPECT_TRUE(may(Role::kTrain, method)) << method;
  }
  EXPECT_FALSE(may(Role::kRead, "ClassificationService/Classify"));
  for (const char* method : {"TrainingService/CreateTrainingJob", "DatasetService/UploadDataset",
                             "ModelService/ImportModelVersion", "DatasetService/DeleteDataset"}) {
    EXPECT_FALSE(may(Role::kRead, method)) << method;
    EXPECT_FALSE(may(Role::kClassify, method)) << method;
    EXPECT_TRUE(may(Role::kTrain, method)) << method;
  }
  for (const char* method : {"ModelService/LoadModelVersion", "ModelService/UnloadModelVersion",
                             "ModelService/DeleteModelVersion"}) {
    EXPECT_FALSE(may(Role::kTrain, method)) << method;
    EXPECT_TRUE(may(Role::kAdmin, method)) << method;
  }
}

}  // namespace
}  // namespace tasuki
