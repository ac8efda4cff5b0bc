// tasukid: flags → server → wait for a signal → stop.

#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <thread>

#include "server/log/log.h"
#include "server/options.h"
#include "server/server.h"
#include "spdlog/spdlog.h"

namespace tasuki {
namespace {

constexpr char kGuard[] = "TASUKI_REEXECUTED";

// The OpenMP library of LibTorch reads its environment before main: so the program starts itself
// once more with the right one. A waiting thread must not spin, or it takes the cores of the
// trainer.
void SetUpOpenMp(const Options& options, char** argv) {
  if (getenv(kGuard) != nullptr) {
    unsetenv(kGuard);
    return;
  }
  if (options.serving_threads > 0) {
    setenv("OMP_NUM_THREADS", std::to_string(options.serving_threads).c_str(), 0);
  }
  setenv("OMP_WAIT_POLICY", "PASSIVE", 0);
  setenv(kGuard, "1", 1);
  execv(OwnPath().c_str(), argv);
  std::perror("tasukid: cannot start itself again with OMP_NUM_THREADS set; going on without");
  unsetenv(kGuard);
}

// Blocks of a megabyte and more go back to the system once they are freed. By default the C library
// raises this limit as it sees such blocks, and large requests then leave the heap in pieces.
void SetUpMemory() { mallopt(M_MMAP_THRESHOLD, 1 << 20); }

// Gives back what lies free in between, which is never at the heap's end. It takes milliseconds.
void TrimMemory() {
  constexpr size_t kWorthIt = 16 << 20;
  if (mallinfo2().fordblks > kWorthIt) malloc_trim(0);
}

// SIGTERM and SIGINT wait for sigwait, in every thread that comes after.
sigset_t BlockSignals() {
  signal(SIGPIPE, SIG_IGN);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

int Run(const Options& options) {
  const sigset_t signals = BlockSignals();
  // The habit after changing such files, which are read again anyway.
  if (!options.tls_certificate.empty() || !options.tokens_file.empty()) signal(SIGHUP, SIG_IGN);
  auto server = Server::Start(options);
  if (!server.ok()) {
    const std::string message(server.status().message());
    if (options.log_format == "json") {
      spdlog::error("tasukid cannot start: {}", message);
    } else {
      std::fprintf(stderr, "tasukid: %s.\n", message.c_str());
    }
    return absl::IsFailedPrecondition(server.status()) ? kExitBadSetup : 1;
  }
  int signal = 0;
  constexpr timespec kInterval = {.tv_sec = 10, .tv_nsec = 0};
  while ((signal = sigtimedwait(&signals, nullptr, &kInterval)) < 0) TrimMemory();
  spdlog::info("{}: no new calls in {} s; those under way then have {} s", strsignal(signal),
               options.drain_delay_seconds, options.drain_seconds);
  std::thread([signals] {
    int second = 0;
    sigwait(&signals, &second);
    // Nothing of the program's own: it may be about to end.
    constexpr char kLine[] = "tasukid: a second signal: ending at once\n";
    static_cast<void>(!write(STDERR_FILENO, kLine, sizeof kLine - 1));
    _exit(1);
  }).detach();
  (*server)->Stop();
  server->reset();
  spdlog::info("stopped");
  return 0;
}

}  // namespace
}  // namespace tasuki

int main(int argc, char** argv) {
  const tasuki::ParsedOptions parsed = tasuki::ParseOptions(argc, argv);
  if (parsed.finished) {
    std::fputs(parsed.output.c_str(), parsed.exit_code == 0 ? stdout : stderr);
    return parsed.exit_code;
  }
  tasuki::SetUpOpenMp(parsed.options, argv);
  tasuki::SetUpMemory();
  umask(077);  // texts and tokens are nobody else's, also where neither systemd nor a container
               // says so
  tasuki::SetUpLog(parsed.options.log_format == "json" ? tasuki::LogFormat::kJson
                                                       : tasuki::LogFormat::kText);
  tasuki::SetLogLevel(parsed.options.log_level);
  return tasuki::Run(parsed.options);
}
