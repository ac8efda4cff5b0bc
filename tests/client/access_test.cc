// TLS and tokens of the client, against servers with certificates of every kind.

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "client/client.h"
#include "tasuki/v1/classification.grpc.pb.h"
#include "tasuki/v1/server.grpc.pb.h"
#include "tests/testing/certificates.h"

namespace tasuki {
namespace {

using testing::HasSubstr;

class Info final : public v1::ServerService::Service {
 public:
  grpc::Status GetServerInfo(grpc::ServerContext* context, const v1::GetServerInfoRequest*,
                             v1::ServerInfo*) override {
    const auto& metadata = context->client_metadata();
    const auto header = metadata.find("authorization");
    authorization = header != metadata.end()
                        ? std::string(header->second.data(), header->second.size())
                        : "none";
    return grpc::Status::OK;
  }
  std::string authorization;  // of the last call, which is over when it is read
};

// Answers with the model that was asked, and the token that came.
class Echo final : public v1::ClassificationService::Service {
  grpc::Status Classify(grpc::ServerContext* context, const v1::ClassifyRequest* request,
                        v1::ClassifyResponse* answer) override {
    const auto header = context->client_metadata().find("authorization");
    auto& prediction = *answer->add_results()->add_predictions();
    prediction.set_task(request->model());
    prediction.set_label(std::string(header->second.data(), header->second.size()));
    prediction.add_scores()->set_probability(.5);
    return grpc::Status::OK;
  }
};

class ClientAccessTest : public testing::Test {
 protected:
  ClientAccessTest() {
    std::string root = testing::TempDir() + "tls.XXXXXX";
    root_ = mkdtemp(root.data());
    options_.first_backoff = options_.max_backoff = absl::Milliseconds(1);
    options_.tls_ca = Write("ca", ca_.pem());
  }
  ~ClientAccessTest() override {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
    std::filesystem::remove_all(root_);
  }

  std::string Write(const std::string& name, const std::string& text) const {
    std::ofstream(root_ + "/" + name) << text;
    return root_ + "/" + name;
  }

  void Listen(const std::shared_ptr<grpc::ServerCredentials>& credentials) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", credentials, &port_);
    builder.RegisterService(&info_);
    builder.RegisterService(&echo_);
    server_ = builder.BuildAndStart();
  }

  static std::shared_ptr<grpc::ServerCredentials> With(const TestCa::Issued& issued,
                                                       const std::string& client_ca = "") {
    grpc::SslServerCredentialsOptions options(
        client_ca.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                          : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
    options.pem_key_cert_pairs = {{issued.key, issued.certificate}};
    options.pem_root_certs = client_ca;
    return grpc::SslServerCredentials(options);
  }

  absl::Status Call(const std::string& host = "127.0.0.1") const {
    auto client = Client::Connect(absl::StrCat(host, ":", port_), options_);
    return client.ok() ? client->GetServerInfo().status() : client.status();
  }

  // That the call fails because of TLS, and is not repeated.
  void ExpectFault(const std::string& words) const {
    const absl::Status status = Call();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(words));
  }

  const TestCa ca_{"root"}, other_{"other"};
  std::string root_;
  ClientOptions options_;
  Info info_;
  Echo echo_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

TEST_F(ClientAccessTest, ATokenGoesWithEveryCall) {
  Listen(With(ca_.Issue()));
  EXPECT_TRUE(Call().ok()) << Call();
  EXPECT_EQ(info_.authorization, "none");
  options_.token = "tasuki_abc";
  EXPECT_TRUE(Call().ok());
  EXPECT_EQ(info_.authorization, "Bearer tasuki_abc");
  EXPECT_TRUE(Call("localhost").ok());
}

TEST_F(ClientAccessTest, ATokenGoesInTheClearToThisMachineOnly) {
  Listen(grpc::InsecureServerCredentials());
  options_.tls_ca.clear();
  options_.token = "tasuki_abc";
  EXPECT_TRUE(Call().ok());
  EXPECT_EQ(info_.authorization, "Bearer tasuki_abc");
  for (const char* host : {"192.0.2.1", "127.example.com", "[2001:db8::1]", "0.0.0.0"}) {
    const absl::Status status = Call(host);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << host;
    EXPECT_THAT(std::string(status.message()), HasSubstr("in the clear"));
  }
  options_.token = "two\nlines";
  EXPECT_TRUE(absl::IsInvalidArgument(Call()));
}

TEST_F(ClientAccessTest, TheExampleReachesAServerWithTlsAndTokens) {
  Listen(With(ca_.Issue()));
  for (const auto& [typed, asked] :
       {std::pair{"reviews", "models/reviews"},
        {"models/reviews/aliases/production", "models/reviews/aliases/production"}}) {
    const std::string command = absl::StrCat(
        "TASUKI_TLS_CA=", options_.tls_ca, " TASUKI_TOKEN=tasuki_abc ", TASUKI_BINARY_DIR,
        "/bin/classify-example 127.0.0.1:", port_, " ", typed, " text 2>&1");
    FILE* output = popen(command.c_str(), "r");
    char line[1000] = "";
    fgets(line, sizeof(line), output);
    EXPECT_EQ(pclose(output), 0);
    EXPECT_EQ(std::string(line), absl::StrCat("text\t", asked, "\tBearer tasuki_abc\t0.5\n"));
  }
}

TEST_F(ClientAccessTest, FilesThatCannotBeUsedAreNamed) {
  const auto fault = [&] {
    const absl::Status status = Client::Connect("127.0.0.1:1", options_).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  };
  options_.tls_ca = root_ + "/nothing";
  EXPECT_THAT(fault(), HasSubstr(root_ + "/nothing cannot be read"));
  options_.tls_ca = Write("text", "text");
  EXPECT_THAT(fault(), HasSubstr("is not PEM"));
  options_.tls_ca = Write("ca", ca_.pem());
  options_.tls_certificate = Write("certificate", ca_.Issue().certificate);
  EXPECT_THAT(fault(), HasSubstr("go together"));
  options_.tls_key = root_ + "/no key";
  EXPECT_THAT(fault(), HasSubstr("no key cannot be read"));
  options_.tls_ca.clear();
  EXPECT_THAT(fault(), HasSubstr("needs TLS"));
}

TEST_F(ClientAccessTest, WhatTheServersCertificateLacksIsSaid) {
  Listen(With(other_.Issue()));
  ExpectFault("is not signed by the CA in " + root_ + "/ca");
  server_->Shutdown();
  Listen(With(ca_.Issue(absl::Now() - absl::Minutes(1))));
  ExpectFault("the server's certificate has expired");
  server_->Shutdown();
  Listen(With(ca_.Issue(absl::Now() + absl::Hours(1), absl::Now() - absl::Hours(1),
                        "DNS:elsewhere,IP:192.0.2.1")));
  ExpectFault("the server's certificate is not for \"127.0.0.1\"");
}

TEST_F(ClientAccessTest, WhatTheServerWantsIsSaid) {
  Listen(With(ca_.Issue(), ca_.pem()));
  ExpectFault("the server wants a certificate of the client");
  const auto use = [&](const TestCa::Issued& issued) {
    options_.tls_certificate = Write("certificate", issued.certificate);
    options_.tls_key = Write("key", issued.key);
  };
  use(other_.Issue());
  ExpectFault("the server does not take the certificate of this client");
  use(ca_.Issue(absl::Now() - absl::Minutes(1)));
  ExpectFault("the certificate of this client has expired");
  use(ca_.Issue());
  EXPECT_TRUE(Call().ok());
}

TEST_F(ClientAccessTest, OneWhoSpeaksTlsAndOneWhoDoesNotAreToldSo) {
  Listen(grpc::InsecureServerCredentials());
  ExpectFault("the server does not speak TLS");
  server_->Shutdown();
  Listen(With(ca_.Issue()));
  options_.tls_ca.clear();
  ExpectFault("the server wants TLS");
}

}  // namespace
}  // namespace tasuki
