#include "server/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "absl/strings/str_cat.h"

namespace tasuki {
namespace {

using testing::HasSubstr;

class OptionsTest : public testing::Test {
 protected:
  static ParsedOptions Parse(std::vector<const char*> flags) {
    flags.insert(flags.begin(), "tasukid");
    flags.push_back("--trainer=/bin/true");
    return ParseOptions(static_cast<int>(flags.size()), flags.data());
  }
  // With `text` in file_ as the config file.
  ParsedOptions ParseFile(const std::string& text) const {
    std::ofstream(file_) << text;
    const ParsedOptions parsed = Parse({("--config=" + file_).c_str()});
    std::filesystem::remove(file_);
    return parsed;
  }

  const std::string file_ = absl::StrCat(testing::TempDir(), "options_test.", getpid());
};

TEST_F(OptionsTest, UnsetFlagsAreSensible) {
  const ParsedOptions parsed = Parse({});
  ASSERT_FALSE(parsed.finished) << parsed.output;
  EXPECT_EQ(parsed.options.listen, "127.0.0.1:8500");
  EXPECT_EQ(parsed.options.metrics_listen, "127.0.0.1:9500");
  EXPECT_EQ(parsed.options.device, "auto") << "looked for later";
  EXPECT_EQ(parsed.options.serving_precision, "fp32");
  EXPECT_EQ(parsed.options.kernels, "auto");
  EXPECT_EQ(parsed.options.serving_threads, 0) << "measured later";
  EXPECT_EQ(parsed.options.training_threads, 0);
  EXPECT_EQ(parsed.options.training_priority, "idle");
  EXPECT_TRUE(std::filesystem::path(parsed.options.data_dir).is_absolute());
}

TEST_F(OptionsTest, AFlagBeatsTheFileThatBeatsTheEnvironment) {
  const std::string file = absl::StrCat(testing::TempDir(), "options_test.", getpid());
  std::ofstream(file) << "drain_seconds=5\nserving_threads=3\n";
  setenv("TASUKI_DRAIN_SECONDS", "6", 1);
  setenv("TASUKI_TRAINING_THREADS", "7", 1);
  const std::string config = "--config=" + file;
  const ParsedOptions parsed = Parse({config.c_str(), "--serving_threads=4"});
  unsetenv("TASUKI_DRAIN_SECONDS");
  unsetenv("TASUKI_TRAINING_THREADS");
  std::filesystem::remove(file);
  ASSERT_FALSE(parsed.finished) << parsed.output;
  EXPECT_EQ(parsed.options.serving_threads, 4);
  EXPECT_EQ(parsed.options.drain_seconds, 5);
  EXPECT_EQ(parsed.options.training_threads, 7);
}

TEST_F(OptionsTest, RefusesWhatCannotBeMeant) {
  const std::vector<std::pair<const char*, const char*>> faults = {
      {"--data_dir=", "--data_dir= has no value"}, {"--listen=nowhere", "HOST:PORT"},
      {"--listen=127.0.0.1:70000", "HOST:PORT"},   {"--store=postgresql://db", "not built yet"},
      {"--serving_precision=fp16", "fp16"},        {"--store=redis", "not a store"},
      {"--device=cuda:x", "not a device"},         {"--device=tpu", "not a device"},
      {"--drain_seconds=-1", "drain_seconds"},     {"--max_batch_tokens=many", "max_batch_tokens"},
      {"--log_level=loud", "log_level"},           {"--unknown=1", "unknown"},
      {"--training_priority=high", "high"},        {"--kernels=sse", "sse"},
  };
  for (const auto& [flag, words] : faults) {
    const ParsedOptions parsed = Parse({flag});
    EXPECT_TRUE(parsed.finished) << flag;
    EXPECT_EQ(parsed.exit_code, kExitBadSetup) << flag;
    EXPECT_THAT(parsed.output, HasSubstr(words)) << flag;
  }
}

TEST_F(OptionsTest, AnEmptyDataDirectoryIsRefusedHoweverItIsWritten) {
  for (const std::vector<const char*>& flags :
       {std::vector<const char*>{"--data_dir=", "--listen=127.0.0.1:0"},
        std::vector<const char*>{"--data_dir=", "elsewhere"},
        std::vector<const char*>{"--data_dir", ""}}) {
    const ParsedOptions parsed = Parse(flags);
    EXPECT_EQ(parsed.exit_code, kExitBadSetup);
    EXPECT_THAT(parsed.output, HasSubstr("--data_dir"));
    EXPECT_EQ(std::count(parsed.output.begin(), parsed.output.end(), '\n'), 1) << parsed.output;
  }
}

TEST_F(OptionsTest, AnAddressCanBeNone) {
  const ParsedOptions parsed = Parse({"--metrics_listen=none", "--health_listen=none"});
  ASSERT_FALSE(parsed.finished) << parsed.output;
  EXPECT_EQ(parsed.options.metrics_listen, "");
  EXPECT_EQ(parsed.options.health_listen, "");
}

TEST_F(OptionsTest, APublicAddressWantsTlsAndAuthenticationOrAClearWord) {
  const char* const kPublic = "--listen=0.0.0.0:8500";
  const char *certificate = "--tls_certificate=c", *key = "--tls_key=k",
             *client_ca = "--tls_client_ca=a", *tokens = "--tokens_file=t";
  const std::vector<std::pair<std::vector<const char*>, const char*>> refused = {
      {{}, "TLS (--tls_certificate and --tls_key) and authentication"},
      {{tokens}, "TLS (--tls_certificate and --tls_key);"},
      {{certificate, key}, "needs authentication (--tokens_file or --tls_client_ca)"},
  };
  for (auto [flags, words] : refused) {
    flags.push_back(kPublic);
    const ParsedOptions parsed = Parse(flags);
    EXPECT_EQ(parsed.exit_code, kExitBadSetup);
    EXPECT_THAT(parsed.output, HasSubstr(words));
    EXPECT_THAT(parsed.output, HasSubstr("0.0.0.0:8500"));
    EXPECT_THAT(parsed.output, HasSubstr("--allow_unauthenticated_public_access"));
    flags.push_back("--allow_unauthenticated_public_access");
    EXPECT_FALSE(Parse(flags).finished);
  }
  EXPECT_FALSE(Parse({kPublic, certificate, key, tokens}).finished);
  EXPECT_FALSE(Parse({kPublic, certificate, key, client_ca}).finished);
  for (const char* flag : {certificate, key, client_ca}) {
    const ParsedOptions parsed = Parse({flag});
    EXPECT_EQ(parsed.exit_code, kExitBadSetup) << flag;
    EXPECT_THAT(parsed.output, HasSubstr("--tls_certificate and --tls_key")) << flag;
  }
}

TEST_F(OptionsTest, LoopbackIsWhatOnlyThisMachineCanReach) {
  for (const char* address : {"127.0.0.1:1", "127.9.9.9:1", "localhost:1", "[::1]:1"}) {
    EXPECT_TRUE(IsLoopback(address)) << address;
  }
  for (const char* address : {"0.0.0.0:1", "[::]:1", "127.example.com:1", "localhost.example:1",
                              "10.0.0.1:1", "[2001:db8::1]:1", "example.com:1"}) {
    EXPECT_FALSE(IsLoopback(address)) << address;
  }
}

TEST_F(OptionsTest, AnUnknownNameInTheFileIsAFault) {
  const ParsedOptions parsed = ParseFile("drain_seconds=5\n\ndrain_second=5\n");
  EXPECT_EQ(parsed.exit_code, kExitBadSetup);
  EXPECT_THAT(parsed.output, HasSubstr(file_ + ":3 sets no flag of tasukid: drain_second=5 (see"));
}

TEST_F(OptionsTest, ANameWithoutAValueInTheFileIsAFault) {
  const ParsedOptions parsed = ParseFile("allow_unauthenticated_public_access\ndata_dir\n");
  EXPECT_EQ(parsed.exit_code, kExitBadSetup);
  EXPECT_THAT(parsed.output, HasSubstr(file_ + ":2 gives no value: data_dir (see"));
}

TEST_F(OptionsTest, TheReadyFileIsAFileInADirectory) {
  const std::string directory = testing::TempDir();
  EXPECT_THAT(Parse({"--ready_file", directory.c_str()}).output, HasSubstr("no file"));
  EXPECT_THAT(Parse({"--ready_file", "/nowhere/ready"}).output,
              HasSubstr("there is no directory for --ready_file=/nowhere/ready"));
  EXPECT_FALSE(Parse({"--ready_file", (directory + "/ready").c_str()}).finished);
}

TEST_F(OptionsTest, ANameThatComesTwiceInTheFileIsAFault) {
  const ParsedOptions parsed = ParseFile("drain_seconds=5\nlog_level=debug\ndrain_seconds=6\n");
  EXPECT_EQ(parsed.exit_code, kExitBadSetup);
  EXPECT_THAT(parsed.output,
              HasSubstr(file_ + ":3 sets drain_seconds again, which line 1 has set (see"));
}

TEST_F(OptionsTest, WhatIsNotExpectedIsNamedAsItCame) {
  EXPECT_THAT(Parse({"--model-memory-mb", "3"}).output,
              HasSubstr("tasukid: not expected: --model-memory-mb 3 (see"));
}

TEST_F(OptionsTest, HelpNamesEveryFlagWithItsVariable) {
  const ParsedOptions parsed = Parse({"--help"});
  EXPECT_TRUE(parsed.finished);
  EXPECT_EQ(parsed.exit_code, 0);
  for (const char* name : {"--data_dir", "TASUKI_DATA_DIR", "--listen", "--metrics_listen",
                           "--health_listen", "--store", "--device", "--ready_file", "--config"}) {
    EXPECT_THAT(parsed.output, HasSubstr(name));
  }
}

TEST(Trainer, MustBeThereAndAProgram) {
  for (const char* flag : {"--trainer=/nothing/here", "--trainer=/tmp"}) {
    const char* flags[] = {"tasukid", flag};
    const ParsedOptions parsed = ParseOptions(2, flags);
    EXPECT_EQ(parsed.exit_code, kExitBadSetup);
    EXPECT_THAT(parsed.output, HasSubstr(flag + strlen("--trainer=")));
  }
}

TEST(WorkingDirectory, ThatIsGoneIsNamedAndNotTakenForTheRoot) {
  const std::filesystem::path before = std::filesystem::current_path();
  std::string gone = testing::TempDir() + "gone.XXXXXX";
  std::filesystem::current_path(mkdtemp(gone.data()));
  std::filesystem::remove(gone);
  const char* flags[] = {"tasukid", "--trainer=/bin/true"};
  const ParsedOptions parsed = ParseOptions(2, flags);
  std::filesystem::current_path(before);
  EXPECT_EQ(parsed.exit_code, kExitBadSetup);
  EXPECT_THAT(parsed.output, HasSubstr("working directory is gone"));
}

}  // namespace
}  // namespace tasuki
