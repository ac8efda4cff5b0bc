// Every flag of tasukid, with its default and limits. The only place that names one.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tasuki {

// Exit code of a wrong setup: a flag, an address or a data directory that cannot be used
// (sysexits.h: EX_CONFIG).
inline constexpr int kExitBadSetup = 78;

// Checked once, constant afterwards. Help texts are in options.cc.
struct Options {
  std::string data_dir = "tasuki-data";
  std::string listen = "127.0.0.1:8500";
  std::string metrics_listen = "127.0.0.1:9500";  // empty once parsed: none
  std::string health_listen = "none";             // empty once parsed: none
  std::string tls_certificate;                    // empty: no TLS
  std::string tls_key;
  std::string tls_client_ca;  // empty: clients need no certificate
  std::string tokens_file;    // empty: nobody needs a token
  bool allow_unauthenticated_public_access = false;
  std::string store = "sqlite";
  std::string device = "auto";  // or cpu, cuda:N
  std::string serving_precision = "fp32";
  std::string kernels = "auto";
  int serving_threads = 0;   // 0: see PickCompute
  int training_threads = 0;  // 0: see PickCompute
  std::string training_priority = "idle";
  int max_batch_tokens = 4096;
  int max_queue_tokens = 65536;
  int64_t model_memory_mb = 0;  // 0: no limit
  int keep_versions = 0;        // 0: all
  int max_batch_delay_ms = 0;
  int max_rpc_threads = 64;
  int drain_delay_seconds = 0;
  int drain_seconds = 30;
  std::string trainer;  // an absolute path once parsed
  std::string ready_file;
  std::string log_level = "info";
  std::string log_format = "text";
};

// What a command line comes to: options, or a text to print and an exit code.
struct ParsedOptions {
  Options options;
  bool finished = false;  // print `output` and end with `exit_code`
  int exit_code = 0;
  std::string output;
};

// A flag on the command line is taken before the --config file, that before TASUKI_… in the
// environment, that before the default. Faults come as `finished` with one clear sentence.
ParsedOptions ParseOptions(int argc, const char* const* argv);

// Whether only this machine can reach `address`, HOST:PORT.
bool IsLoopback(const std::string& address);

// The path of the running program.
std::string OwnPath();

}  // namespace tasuki
