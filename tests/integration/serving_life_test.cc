// Models come and go, and the server stops, under callers who must not notice. How often is set by
// TASUKI_SWAPS, TASUKI_LOADS (of each of 32 threads) and TASUKI_SIGTERMS.

#include <gmock/gmock.h>
#include <signal.h>
#include <sys/wait.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <set>
#include <sstream>
#include <thread>

#include "client/client.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "tests/integration/world.h"

namespace tasuki {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int kCallers = 64;
constexpr char kModel[] = "models/life";
constexpr char kAlias[] = "models/life/aliases/production";
constexpr int kVersions = 3;  // good ones
constexpr int kCorrupt = 4;   // the number of the one that is not
constexpr int kDelaySeconds = 1, kDrainSeconds = 10;

int CountOf(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : std::atoi(text);
}

std::string VersionOf(int number) {
  return std::string(kModel) + "/versions/" + std::to_string(number);
}

std::string ReadAll(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// models/life with versions of equal weights whose labels say which version they are of, and one
// whose weights were changed on the disk.
void MakeVersions(Tasukid& tasukid, const std::string& data_dir) {
  auto client = *Client::Connect(tasukid.listen());
  TemporaryDirectory work;
  ASSERT_TRUE(client.ExportModelVersion(kReviews, work.path() + "/reviews").ok());
  const std::string manifest = work.path() + "/reviews/tasuki.json";
  const std::string text = ReadAll(manifest);
  for (int number = 1; number <= kCorrupt; ++number) {
    std::string own = text;
    const std::string suffix = "-" + std::to_string(number);
    for (const std::string label : {"negative", "neutral", "positive"}) {
      const std::string name = "\"name\": \"" + label + "\"";
      const size_t at = own.find(name);
      ASSERT_NE(at, std::string::npos) << own.substr(0, 2000);
      own.replace(at, name.size(), "\"name\": \"" + label + suffix + "\"");
    }
    std::ofstream(manifest) << own;
    const auto version = client.ImportModelVersion(kModel, work.path() + "/reviews");
    ASSERT_TRUE(version.ok()) << version.status();
  }
  const std::string weights =
      data_dir + "/models/life/" + std::to_string(kCorrupt) + "/model.safetensors";
  ASSERT_TRUE(fs::exists(weights));
  std::fstream file(weights, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-1, std::ios::end);
  file.put('\x55');
}

class ServingLife : public testing::Test {
 protected:
  void SetUp() override {
    data_dir_ = directory_.path() + "/data";
    fs::copy(TheWorld().data_dir, data_dir_, fs::copy_options::recursive);
    fs::remove(data_dir_ + "/lock");
    Start();
    MakeVersions(*tasukid_, data_dir_);
  }
  void Start() {
    tasukid_ = std::make_unique<Tasukid>(
        Tasukid::Options{.data_dir = data_dir_,
                         .flags = {"--drain_delay_seconds=" + std::to_string(kDelaySeconds),
                                   "--drain_seconds=" + std::to_string(kDrainSeconds)}});
  }

  TemporaryDirectory directory_;
  std::string data_dir_;
  std::unique_ptr<Tasukid> tasukid_;
};

// One call after the other on each of many threads until it is told to stop.
class Callers {
 public:
  explicit Callers(const std::string& address) {
    for (int i = 0; i < kCallers; ++i) {
      threads_.emplace_back([this, address] {
        grpc::ChannelArguments arguments;
        arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
        const auto channel =
            grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
        if (!channel->WaitForConnected(std::chrono::system_clock::now() +
                                       std::chrono::seconds(30))) {
          std::lock_guard lock(mutex_);
          failures_.push_back("not connected within 30 s");
        }
        const auto stub = v1::ClassificationService::NewStub(channel);
        while (!stop_) Call(*stub);
      });
    }
  }
  ~Callers() { Stop(); }
  void Stop() {
    stop_ = true;
    for (auto& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
  }
  int64_t answered() const { return answered_; }
  std::vector<std::string> failures() {
    std::lock_guard lock(mutex_);
    return failures_;
  }
  std::set<std::string> versions() {
    std::lock_guard lock(mutex_);
    return versions_;
  }

 private:
  void Call(v1::ClassificationService::Stub& stub) {
    v1::ClassifyRequest request;
    request.set_model(kAlias);
    request.add_texts("2日前に届いた椅子は最高です。");
    request.add_tasks("sentiment");
    grpc::ClientContext context;
    v1::ClassifyResponse response;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    const grpc::Status status = stub.Classify(&context, request, &response);
    std::string fault;
    if (!status.ok()) {
      fault = std::to_string(status.error_code()) + ": " + status.error_message();
    } else {
      // The labels are those of the version that the answer names.
      const std::string version = response.model_version();
      const std::string suffix = "-" + version.substr(version.rfind('/') + 1);
      for (const auto& score : response.results(0).predictions(0).scores()) {
        if (!score.label().ends_with(suffix)) fault = score.label() + " of " + version;
      }
      ++answered_;
    }
    std::lock_guard lock(mutex_);
    versions_.insert(response.model_version());
    if (!fault.empty()) failures_.push_back(fault);
  }

  std::atomic<bool> stop_ = false;
  std::atomic<int64_t> answered_ = 0;
  std::mutex mutex_;
  std::vector<std::string> failures_;
  std::set<std::string> versions_;
  std::vector<std::thread> threads_;
};

TEST_F(ServingLife, HotSwapsLoseNoCall) {
  auto client = *Client::Connect(tasukid_->listen());
  ASSERT_TRUE(client.SetModelAlias(kAlias, VersionOf(1)).ok());
  const int swaps = CountOf("TASUKI_SWAPS", 20);
  int refused = 0;
  Callers callers(tasukid_->listen());
  std::string current = VersionOf(1);
  for (int swap = 1; swap <= swaps; ++swap) {
    if (swap % 10 == 0) {
      const auto alias = client.SetModelAlias(kAlias, VersionOf(kCorrupt));
      refused += absl::IsDataLoss(alias.status());
      EXPECT_EQ(client.GetModelAlias(kAlias)->model_version(), current);
      continue;
    }
    current = VersionOf(1 + swap % kVersions);
    const auto alias = client.SetModelAlias(kAlias, current);
    ASSERT_TRUE(alias.ok()) << alias.status();
    // What it named before is gone from memory, and the others never were there.
    EXPECT_THAT(client.GetServerInfo()->loaded_model_versions(),
                testing::UnorderedElementsAre(current, kReviews));
  }
  callers.Stop();
  EXPECT_THAT(callers.failures(), testing::IsEmpty());
  EXPECT_EQ(refused, swaps / 10);
  EXPECT_EQ(callers.versions().size(), kVersions);
  std::cout << swaps << " swaps under " << kCallers << " callers, " << refused
            << " refused as corrupt: " << callers.answered() << " calls answered, "
            << callers.failures().size() << " failed" << std::endl;
}

int64_t ResidentKib(pid_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) return std::atoll(line.c_str() + 6);
  }
  return 0;
}

TEST_F(ServingLife, LoadsAndUnloadsGiveMemoryBack) {
  const int rounds = CountOf("TASUKI_LOADS", 8);
  const auto run = [&](int count) {
    std::vector<std::thread> threads;
    std::atomic<int> failed = 0;
    for (int t = 0; t < 32; ++t) {
      threads.emplace_back([&, t] {
        auto client = *Client::Connect(tasukid_->listen());
        for (int i = 0; i < count; ++i) {
          const std::string name = VersionOf(1 + (t + i) % kVersions);
          const auto version =
              i % 2 == 0 ? client.LoadModelVersion(name) : client.UnloadModelVersion(name);
          if (!version.ok()) ++failed;
        }
      });
    }
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(failed, 0);
    auto client = *Client::Connect(tasukid_->listen());
    for (int number = 1; number <= kVersions; ++number) {
      EXPECT_TRUE(client.UnloadModelVersion(VersionOf(number)).ok());
    }
    return ResidentKib(tasukid_->pid());
  };
  const int64_t before = run(std::max(2, rounds / 8));
  const int64_t after = run(rounds);
  EXPECT_LE(after - before, 20 << 10);
  std::cout << "32 threads, " << rounds << " loads and unloads each: " << before
            << " KiB after warm-up, " << after << " KiB at the end, "
            << static_cast<double>(after - before) / 1024 << " MiB more" << std::endl;
}

TEST_F(ServingLife, SigtermsLoseNoAcceptedCall) {
  ASSERT_TRUE(Client::Connect(tasukid_->listen())->SetModelAlias(kAlias, VersionOf(1)).ok());
  const int count = CountOf("TASUKI_SIGTERMS", 3);
  int64_t answered = 0;
  double slowest = 0;
  for (int i = 0; i < count; ++i) {
    if (i > 0) {
      tasukid_.reset();
      Start();
      tasukid_->AwaitLoaded(kAlias);
    }
    const auto health = grpc::health::v1::Health::NewStub(
        grpc::CreateChannel(tasukid_->listen(), grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    grpc::health::v1::HealthCheckRequest request;
    request.set_service(kAlias);
    const auto watch = health->Watch(&context, request);
    grpc::health::v1::HealthCheckResponse response;
    ASSERT_TRUE(watch->Read(&response));
    ASSERT_EQ(response.status(), grpc::health::v1::HealthCheckResponse::SERVING);

    Callers callers(tasukid_->listen());
    while (callers.answered() < kCallers) std::this_thread::yield();
    const auto begin = Clock::now();
    ASSERT_EQ(kill(tasukid_->pid(), SIGTERM), 0);
    ASSERT_TRUE(watch->Read(&response)) << "the port closed without a word";
    EXPECT_EQ(response.status(), grpc::health::v1::HealthCheckResponse::NOT_SERVING);
    EXPECT_LT(Clock::now() - begin, std::chrono::milliseconds(kDelaySeconds * 1000));
    callers.Stop();
    context.TryCancel();
    EXPECT_THAT(callers.failures(), testing::IsEmpty()) << "SIGTERM " << i;
    answered += callers.answered();
    EXPECT_EQ(tasukid_->AwaitExit(), 0);
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    slowest = std::max(slowest, seconds);
    EXPECT_LT(seconds, kDelaySeconds + kDrainSeconds);
  }
  std::cout << count << " SIGTERMs under " << kCallers << " callers: " << answered
            << " calls answered, none failed; the slowest end took " << slowest << " s"
            << std::endl;
}

}  // namespace
}  // namespace tasuki
