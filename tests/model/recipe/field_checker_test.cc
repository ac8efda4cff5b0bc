#include "model/recipe/field_checker.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace tasuki {
namespace {

TEST(WithCommas, GroupsThousands) {
  EXPECT_EQ(WithCommas(0), "0");
  EXPECT_EQ(WithCommas(999), "999");
  EXPECT_EQ(WithCommas(1000), "1,000");
  EXPECT_EQ(WithCommas(-100), "-100");
  EXPECT_EQ(WithCommas(-1234567), "-1,234,567");
  EXPECT_EQ(WithCommas(std::numeric_limits<int64_t>::min()), "-9,223,372,036,854,775,808");
}

TEST(FieldChecker, NamesTheFieldByItsPath) {
  Faults faults;
  FieldChecker("", faults).At("tasks", 3).At("recipe").Add("epochs", "is odd");
  EXPECT_EQ(faults.ToStatus().message(), "tasks[3].recipe.epochs: is odd");
}

TEST(FieldChecker, TakesBothEndsOfARange) {
  Faults faults;
  const FieldChecker check("", faults);
  check.Integer("a", 1, 1, 2);
  check.Integer("a", 2, 1, 2);
  check.Real("b", 0, 0, .9);
  check.Real("b", .9, 0, .9);
  check.Positive("c", 1e-300, 1);
  check.Positive("c", 1, 1);
  check.Count("d", 1, 1, 1);
  check.AtLeastZero("e", 0);
  check.Known("f", 1, true);
  EXPECT_TRUE(faults.empty());
}

TEST(FieldChecker, HasNaNInNoRange) {
  Faults faults;
  const FieldChecker check("", faults);
  check.Real("a", std::nan(""), 0, 1);
  check.Positive("b", std::nan(""), 1);
  EXPECT_EQ(faults.size(), 2);
}

}  // namespace
}  // namespace tasuki
