#include "server/rpc/trace_context.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace tasuki {
namespace {

TEST(TraceContext, TakesTheIdOfAWellFormedHeader) {
  const std::string id = "0af7651916cd43dd8448eb211c80319c";
  EXPECT_EQ(TraceIdOf("00-" + id + "-b7ad6b7169203331-01"), id);
  EXPECT_EQ(TraceIdOf("cc-" + id + "-b7ad6b7169203331-01-what-comes-later"), id);
}

TEST(TraceContext, TakesNothingElse) {
  const std::string id = "0af7651916cd43dd8448eb211c80319c";
  const std::vector<std::string> headers = {
      "",
      "00",
      "00-" + id,
      "00-" + id + "-b7ad6b7169203331",
      "00-" + id + "-b7ad6b7169203331-01-more",
      "cc-" + id + "-b7ad6b7169203331-01.more",
      "ff-" + id + "-b7ad6b7169203331-01",
      "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
      "00-" + std::string(32, '0') + "-b7ad6b7169203331-01",
      "00_" + id + "_b7ad6b7169203331_01",
      "00-0af7651916cd43dd8448eb211c8031\n\n-b7ad6b7169203331-01"};
  for (const std::string& header : headers) {
    EXPECT_EQ(TraceIdOf(header), "") << header;
  }
}

}  // namespace
}  // namespace tasuki
