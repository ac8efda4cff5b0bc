// Turns Ctrl-C and SIGTERM into a request to stop.
//
// Make one at the beginning of main, before any other thread: it blocks both signals in all threads
// and waits for them in one of its own. Who has not ended two seconds after the first signal, or at
// a second one, is ended with exit code 130.
#pragma once

#include <atomic>
#include <stop_token>
#include <thread>

namespace tasuki::cli {

class Interrupts {
 public:
  Interrupts();
  ~Interrupts();
  std::stop_token token() const { return stop_.get_token(); }

  static constexpr int kExitCode = 130;

 private:
  void Wait();

  std::stop_source stop_;          // thread-safe
  std::atomic<bool> over_{false};  // set by the destructor
  std::thread thread_;
};

}  // namespace tasuki::cli
