#include "server/rpc/names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/errors/errors.h"

namespace tasuki {
namespace {

using testing::HasSubstr;

TEST(Names, AcceptTheirForm) {
  EXPECT_TRUE(CheckDatasetName("datasets/d-0123456789abcdef").ok());
  EXPECT_TRUE(CheckJobName("trainingJobs/a-1").ok());
  EXPECT_TRUE(CheckModelName("models/a").ok());
  EXPECT_TRUE(CheckVersionName("models/a/versions/1").ok());
  EXPECT_TRUE(CheckModelOrVersionName("models/a").ok());
  EXPECT_TRUE(CheckModelOrVersionName("models/a/versions/1").ok());
}

TEST(Names, RefuseEveryOtherFormBecauseTheyBecomePaths) {
  for (const char* name : {"", "datasets/", "datasets/../../x", "datasets/d-0123456789abcde",
                           "datasets/d-0123456789ABCDEF", "d-0123456789abcdef"}) {
    EXPECT_FALSE(CheckDatasetName(name).ok()) << name;
  }
  for (const char* name : {"", "trainingJobs/", "trainingJobs/..", "trainingJobs/a/b", "jobs/a"}) {
    EXPECT_FALSE(CheckJobName(name).ok()) << name;
  }
  EXPECT_FALSE(CheckModelName("models/a/versions/1").ok());
  EXPECT_FALSE(CheckVersionName("models/a").ok());
  EXPECT_FALSE(CheckModelOrVersionName("models/a/versions/x").ok());
}

TEST(Names, SayWhichFieldIsWrongAndWhatIsWanted) {
  const absl::Status status = CheckModelName("models/A", "parent");
  EXPECT_EQ(ReasonOf(status), v1::FIELD_INVALID);
  EXPECT_THAT(
      std::string(status.message()),
      testing::AllOf(HasSubstr("parent"), HasSubstr("\"models/A\""), HasSubstr("models/{model}")));
  EXPECT_THAT(std::string(CheckJobName("").message()), HasSubstr("is missing"));
}

}  // namespace
}  // namespace tasuki
