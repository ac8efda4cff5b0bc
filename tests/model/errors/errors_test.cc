#include "model/errors/errors.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "gtest/gtest.h"
#include "model/errors/status_proto.h"

namespace tasuki {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

google::rpc::BadRequest ViolationsOf(const absl::Status& status) {
  google::rpc::BadRequest details;
  const auto payload = status.GetPayload(kBadRequestUrl);
  EXPECT_TRUE(payload && details.ParseFromString(std::string(*payload)));
  return details;
}

TEST(MakeError, CarriesCodeMessageAndAnErrorInfoForPrograms) {
  const absl::Status status = MakeError(absl::StatusCode::kNotFound, v1::RESOURCE_NOT_FOUND,
                                        "there is no models/a", {{"name", "models/a"}});
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "there is no models/a");
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(info.ParseFromString(std::string(*status.GetPayload(kErrorInfoUrl))));
  EXPECT_EQ(info.reason(), "RESOURCE_NOT_FOUND");
  EXPECT_EQ(info.domain(), "tasuki");
  EXPECT_EQ(info.metadata().at("name"), "models/a");
}

TEST(MakeError, CarriesBytesOfAnyFile) {
  const absl::Status status = MakeError(absl::StatusCode::kDataLoss, v1::FILE_CHANGED,
                                        "良い \xFF\xE8\x89", {{"file", "\xC3"}});
  EXPECT_EQ(status.message(), "良い \uFFFD\uFFFD\uFFFD");
  Faults faults;
  faults.Add("a\x80", Quote("\xED\xA0\x80"));
  for (const absl::Status& error : {status, faults.ToStatus(), absl::InternalError("\xFF")}) {
    google::rpc::Status proto;
    EXPECT_TRUE(proto.ParseFromString(StatusProto(error).SerializeAsString()));
    google::rpc::ErrorInfo info;
    google::rpc::BadRequest details;
    for (const auto& detail : proto.details()) {
      EXPECT_TRUE(detail.UnpackTo(&info) || detail.UnpackTo(&details)) << detail.type_url();
    }
  }
}

TEST(ReasonOf, ReadsBackTheReasonOfEveryError) {
  for (int value = 1; value <= v1::ErrorReason_MAX; ++value) {
    if (!v1::ErrorReason_IsValid(value)) continue;
    const auto reason = static_cast<v1::ErrorReason>(value);
    EXPECT_EQ(ReasonOf(MakeError(absl::StatusCode::kInternal, reason, "x")), reason);
  }
}

TEST(ReasonOf, IsUnspecifiedWithoutAnErrorInfoOfOurs) {
  EXPECT_EQ(ReasonOf(absl::OkStatus()), v1::ERROR_REASON_UNSPECIFIED);
  EXPECT_EQ(ReasonOf(absl::InternalError("plain")), v1::ERROR_REASON_UNSPECIFIED);
  absl::Status foreign = absl::InternalError("foreign");
  google::rpc::ErrorInfo info;
  info.set_reason("DISK_FULL");
  info.set_domain("example.com");
  foreign.SetPayload(kErrorInfoUrl, absl::Cord(info.SerializeAsString()));
  EXPECT_EQ(ReasonOf(foreign), v1::ERROR_REASON_UNSPECIFIED);
  foreign.SetPayload(kErrorInfoUrl, absl::Cord("no message at all"));
  EXPECT_EQ(ReasonOf(foreign), v1::ERROR_REASON_UNSPECIFIED);
}

TEST(Annotate, PutsThePrefixBeforeTheMessageAndKeepsTheDetails) {
  Faults faults;
  faults.Add("model", "is missing");
  const absl::Status status = Annotate(faults.ToStatus(), "job.yaml: ");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "job.yaml: model: is missing");
  EXPECT_EQ(ReasonOf(status), v1::FIELD_INVALID);
  EXPECT_EQ(ViolationsOf(status).field_violations_size(), 1);
  EXPECT_TRUE(Annotate(absl::OkStatus(), "job.yaml: ").ok());
}

TEST(Quote, CutsALongValueBetweenTwoCharacters) {
  EXPECT_EQ(Quote("良い"), "\"良い\"");
  std::string long_value = "x";
  for (int i = 0; i < 100; ++i) long_value += "襷";
  std::string expected = "\"x";
  for (int i = 0; i < 26; ++i) expected += "襷";
  EXPECT_EQ(Quote(long_value), expected + "…\"");
}

TEST(Faults, IsOkWithoutAFault) {
  EXPECT_TRUE(Faults().empty());
  EXPECT_TRUE(Faults().ToStatus().ok());
}

TEST(Faults, ReportsEveryFaultInMessageAndBadRequest) {
  Faults faults;
  faults.Add("fine_tuning.recipe.epochs", "0 is not in 1 to 1,000");
  faults.Add("fine_tuning.tasks[1].weight", "-1 is not more than 0 and at most 1,000");
  EXPECT_EQ(faults.size(), 2);
  const absl::Status status = faults.ToStatus();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(status), v1::FIELD_INVALID);
  EXPECT_EQ(status.message(),
            "fine_tuning.recipe.epochs: 0 is not in 1 to 1,000; "
            "fine_tuning.tasks[1].weight: -1 is not more than 0 and at most 1,000");
  const google::rpc::BadRequest details = ViolationsOf(status);
  ASSERT_EQ(details.field_violations_size(), 2);
  EXPECT_EQ(details.field_violations(1).field(), "fine_tuning.tasks[1].weight");
  EXPECT_EQ(details.field_violations(1).description(), "-1 is not more than 0 and at most 1,000");
}

TEST(Faults, CountsWhatWouldNotFitIntoAnErrorOfGrpc) {
  Faults faults;
  for (int i = 0; i < 1000; ++i) {
    faults.Add(absl::StrCat("fine_tuning.tasks[0].labels[", i, "].name"), "「重複」は二度ある");
  }
  const absl::Status status = faults.ToStatus();
  const int told = ViolationsOf(status).field_violations_size();
  EXPECT_GT(told, 10);
  EXPECT_THAT(std::string(status.message()),
              EndsWith(absl::StrCat("; and ", 1000 - told, " more")));
  // Percent-encoded message, and base64 of message and details: 8 KiB is gRPC's limit.
  const size_t details = status.GetPayload(kBadRequestUrl)->size() + status.message().size();
  EXPECT_LT(3 * status.message().size() + details * 4 / 3, 8000);
}

TEST(Faults, CutsASingleFaultThatIsTooLong) {
  Faults faults;
  faults.Add(std::string(5000, 'f'), std::string(5000, 'd'));
  const std::string message(faults.ToStatus().message());
  EXPECT_LT(message.size(), 1000);
  EXPECT_THAT(message, HasSubstr("f…: d"));
}

TEST(StatusProto, GoesThereAndBack) {
  Faults faults;
  faults.Add("field", "is wrong");
  const absl::Status status = faults.ToStatus();
  const absl::Status back = StatusOf(StatusProto(status));
  EXPECT_EQ(back, status);
  EXPECT_EQ(ReasonOf(back), v1::FIELD_INVALID);
  EXPECT_TRUE(StatusOf(StatusProto(absl::OkStatus())).ok());
}

}  // namespace
}  // namespace tasuki
