#include "server/rpc/status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "model/errors/errors.h"

namespace tasuki {
namespace {

using testing::HasSubstr;
using testing::Not;

google::rpc::Status DetailsOf(const grpc::Status& status) {
  google::rpc::Status details;
  EXPECT_TRUE(details.ParseFromString(status.error_details()));
  return details;
}

// The detail of type T; a default one if there is none.
template <typename T>
T Detail(const grpc::Status& status) {
  T detail;
  const google::rpc::Status details = DetailsOf(status);
  for (const auto& any : details.details()) {
    if (any.UnpackTo(&detail)) break;
  }
  return detail;
}

TEST(GrpcStatus, CarriesCodeMessageAndDetails) {
  const grpc::Status status =
      ToGrpcStatus(MakeError(absl::StatusCode::kNotFound, v1::RESOURCE_NOT_FOUND,
                             "models/x does not exist.", {{"name", "models/x"}}));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(status.error_message(), "models/x does not exist.");
  EXPECT_EQ(DetailsOf(status).code(), 5);
  EXPECT_EQ(DetailsOf(status).message(), status.error_message());
  const auto info = Detail<google::rpc::ErrorInfo>(status);
  EXPECT_EQ(info.reason(), "RESOURCE_NOT_FOUND");
  EXPECT_EQ(info.domain(), "tasuki");
  EXPECT_EQ(info.metadata().at("name"), "models/x");
}

TEST(GrpcStatus, OfOkIsOk) { EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok()); }

TEST(GrpcStatus, CarriesEveryFault) {
  Faults faults;
  faults.Add("a", "is wrong");
  faults.Add("b", "is wrong too");
  const auto bad = Detail<google::rpc::BadRequest>(ToGrpcStatus(faults.ToStatus()));
  ASSERT_EQ(bad.field_violations_size(), 2);
  EXPECT_EQ(bad.field_violations(1).field(), "b");
}

TEST(GrpcStatus, GivesTheUsualReasonToAnErrorWithoutOne) {
  const grpc::Status status = ToGrpcStatus(absl::UnavailableError("the disk does not answer"));
  EXPECT_EQ(Detail<google::rpc::ErrorInfo>(status).reason(), "STORE_UNAVAILABLE");
  EXPECT_EQ(status.error_message(), "the disk does not answer");
}

TEST(GrpcStatus, SaysWhenToComeBackWhereThatHelps) {
  const auto delay = [](const absl::Status& status) {
    return Detail<google::rpc::RetryInfo>(ToGrpcStatus(status)).retry_delay().seconds();
  };
  EXPECT_GT(delay(MakeError(absl::StatusCode::kUnavailable, v1::DRAINING, "x")), 0);
  EXPECT_GT(delay(MakeError(absl::StatusCode::kResourceExhausted, v1::DISK_FULL, "x")), 0);
  EXPECT_EQ(delay(MakeError(absl::StatusCode::kInvalidArgument, v1::FIELD_INVALID, "x")), 0);
  EXPECT_EQ(delay(MakeError(absl::StatusCode::kResourceExhausted, v1::OUT_OF_MEMORY, "x")), 0);

  google::rpc::RetryInfo own;
  own.mutable_retry_delay()->set_seconds(77);
  absl::Status status = MakeError(absl::StatusCode::kResourceExhausted, v1::QUEUE_FULL, "x");
  status.SetPayload(kRetryInfoUrl, absl::Cord(own.SerializeAsString()));
  EXPECT_EQ(delay(status), 77);
}

TEST(GrpcStatus, KeepsTheCauseOfABugToItselfAndNamesItsId) {
  for (const absl::Status& bug :
       {absl::InternalError("secret path /x"), absl::UnknownError("secret path /x"),
        MakeError(absl::StatusCode::kInternal, v1::INTERNAL_ERROR, "secret path /x",
                  {{"path", "secret"}})}) {
    const grpc::Status status = ToGrpcStatus(bug);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
    EXPECT_THAT(status.error_message() + status.error_details(), Not(HasSubstr("secret"))) << bug;
    const auto info = Detail<google::rpc::ErrorInfo>(status);
    EXPECT_EQ(info.reason(), "INTERNAL_ERROR");
    EXPECT_THAT(status.error_message(), HasSubstr(info.metadata().at("error_id")));
  }
}

TEST(GrpcStatus, FitsIntoTheTrailersOfAClientWhateverItSays) {
  Faults faults;
  for (int i = 0; i < 500; ++i) faults.Add(absl::StrCat("texts[", i, "]"), "壊れています");
  const grpc::Status status = ToGrpcStatus(faults.ToStatus());
  size_t encoded = 0;
  for (const unsigned char c : status.error_message()) encoded += c < 128 ? 1 : 3;
  EXPECT_LT(encoded + status.error_details().size(), 7600) << "gRPC's limit is 8 KiB";
  EXPECT_THAT(status.error_message(), HasSubstr("texts[0]"));
  EXPECT_THAT(status.error_message(), testing::EndsWith("…"));
  EXPECT_GT(Detail<google::rpc::BadRequest>(status).field_violations_size(), 5);
  EXPECT_EQ(Detail<google::rpc::ErrorInfo>(status).reason(), "FIELD_INVALID");
}

TEST(Answer, TurnsWhatAHandlerThrowsIntoAnError) {
  EXPECT_TRUE(Answer([] { return absl::OkStatus(); }).ok());
  EXPECT_EQ(Answer([]() -> absl::Status { throw std::runtime_error("oops"); }).error_code(),
            grpc::StatusCode::INTERNAL);
  const grpc::Status no_memory = Answer([]() -> absl::Status { throw std::bad_alloc(); });
  EXPECT_EQ(no_memory.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(Detail<google::rpc::ErrorInfo>(no_memory).reason(), "OUT_OF_MEMORY");
  EXPECT_EQ(Answer([]() -> absl::Status { throw 7; }).error_code(), grpc::StatusCode::INTERNAL);
}

}  // namespace
}  // namespace tasuki
