#include "client/cli/interrupts.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

namespace tasuki::cli {
namespace {

sigset_t Signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  return signals;
}

}  // namespace

Interrupts::Interrupts() {
  const sigset_t signals = Signals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  thread_ = std::thread([this] { Wait(); });
}

Interrupts::~Interrupts() {
  over_ = true;
  pthread_kill(thread_.native_handle(), SIGTERM);  // wakes it
  thread_.join();
}

void Interrupts::Wait() {
  const sigset_t signals = Signals();
  int signal = 0;
  sigwait(&signals, &signal);
  if (over_) return;
  stop_.request_stop();
  const timespec patience{.tv_sec = 2, .tv_nsec = 0};
  sigtimedwait(&signals, nullptr, &patience);
  if (!over_) _exit(kExitCode);
}

}  // namespace tasuki::cli
