#include "server/options.h"

#include <arpa/inet.h>
#include <limits.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <sstream>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/t5/device.h"
#include "server/log/log.h"

namespace tasuki {
namespace {

std::string CheckAddress(const std::string& address) {
  const size_t colon = address.rfind(':');
  uint32_t port = 0;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port > 65535) {
    return absl::StrCat("\"", address, "\" is not HOST:PORT, such as 127.0.0.1:8500");
  }
  return "";
}

std::string CheckAddressOrNone(const std::string& address) {
  return address == "none" ? "" : CheckAddress(address);
}

std::string CheckStore(const std::string& store) {
  if (store == "sqlite") return "";
  if (absl::StartsWith(store, "postgresql://") || absl::StartsWith(store, "postgres://")) {
    return "PostgreSQL is not built yet; sqlite is the only store of this version";
  }
  return absl::StrCat("\"", store, "\" is not a store; sqlite is the only one of this version");
}

// Declares every flag; the help text gives unit and default, the name of the variable is added.
void Declare(CLI::App& app, Options& options) {
  const auto add = [&app](const std::string& name, auto& value, const std::string& help) {
    std::string variable = "TASUKI_" + name;
    for (char& c : variable) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    return app.add_option("--" + name, value, help)->envname(variable)->capture_default_str();
  };
  add("data_dir", options.data_dir, "Directory of everything that is stored; made if missing");
  add("listen", options.listen,
      "HOST:PORT of the gRPC services; port 0 picks a free one. An address that other machines can "
      "reach needs --tls_certificate and either --tokens_file or --tls_client_ca")
      ->check(CLI::Validator(CheckAddress, "HOST:PORT"));
  add("metrics_listen", options.metrics_listen,
      "HOST:PORT of /metrics for Prometheus, without TLS or tokens; port 0 picks a free one, none "
      "turns it off")
      ->check(CLI::Validator(CheckAddressOrNone, "HOST:PORT"));
  add("health_listen", options.health_listen,
      "HOST:PORT of a second gRPC server with nothing but health, without TLS or tokens; port 0 "
      "picks a free one")
      ->check(CLI::Validator(CheckAddressOrNone, "HOST:PORT"));
  add("tls_certificate", options.tls_certificate,
      "PEM file of the server's certificate, followed by those between it and the root: TLS for "
      "--listen. This file and the next three are read again when they change");
  add("tls_key", options.tls_key, "PEM file of the certificate's private key, mode 0600");
  add("tls_client_ca", options.tls_client_ca,
      "PEM file of who signs the certificates of clients; each client then needs one");
  add("tokens_file", options.tokens_file,
      "File of the tokens that clients may have, one a line: NAME ROLE sha256:HASH, as tasuki "
      "token "
      "create prints it. Roles: read, classify, train, admin");
  app.add_flag("--allow_unauthenticated_public_access", options.allow_unauthenticated_public_access,
               "Listen where other machines can connect even without TLS, or without tokens and "
               "certificates of clients")
      ->envname("TASUKI_ALLOW_UNAUTHENTICATED_PUBLIC_ACCESS");
  add("store", options.store, "Where jobs, datasets and models are listed: sqlite")
      ->check(CLI::Validator(CheckStore, "STORE"));
  add("device", options.device,
      "Device of training and serving: cpu, cuda:N, or auto for the first GPU if there is one that "
      "can be used")
      ->check(CLI::Validator([](const std::string& device) { return CheckDeviceName(device); },
                             "DEVICE"));
  add("serving_precision", options.serving_precision,
      "Precision of products when classifying: fp32; bf16 and int8 are faster, change scores a "
      "little, and need a CPU with AVX512-BF16 and AVX512-VNNI, or bf16 a GPU")
      ->check(CLI::IsMember({"fp32", "bf16", "int8"}));
  add("kernels", options.kernels,
      "Instruction set of matrix products: avx512, avx2 or portable; auto for what a measurement "
      "at "
      "the start finds fastest. A job keeps what it began with")
      ->check(CLI::IsMember({"auto", "avx512", "avx2", "portable"}));
  add("serving_threads", options.serving_threads,
      "Threads of a matrix product when classifying; 0 for what a measurement at the start finds "
      "fastest")
      ->check(CLI::Range(0, 1024));
  add("training_threads", options.training_threads,
      "Threads of a matrix product when training; 0 for what a measurement at the start finds "
      "fastest. A job keeps what it began with")
      ->check(CLI::Range(0, 1024));
  add("training_priority", options.training_priority,
      "Priority of trainers: idle (the time that serving leaves over, so that answers do not wait "
      "for a job) or normal")
      ->check(CLI::IsMember({"idle", "normal"}));
  add("max_batch_tokens", options.max_batch_tokens, "Tokens of one forward pass when classifying")
      ->check(CLI::Range(1, 1 << 24));
  add("max_queue_tokens", options.max_queue_tokens,
      "Tokens that may wait for one model version; more is refused with RESOURCE_EXHAUSTED")
      ->check(CLI::Range(1, 1 << 28));
  add("model_memory_mb", options.model_memory_mb,
      "Megabytes that the weights of all model versions in memory may take; the least recently "
      "used version makes room, and the next request to it brings it back. 0 for no limit")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40));
  add("keep_versions", options.keep_versions,
      "Versions of each model that are kept, besides those that an alias names or would roll back "
      "to; older ones are unloaded and deleted when a new one is published. 0 keeps all")
      ->check(CLI::Range(0, 1'000'000));
  add("max_batch_delay_ms", options.max_batch_delay_ms,
      "Milliseconds that a forward pass of fewer than max_batch_tokens may wait for more texts; 0 "
      "for none")
      ->check(CLI::Range(0, 1000));
  add("max_rpc_threads", options.max_rpc_threads,
      "Threads for calls that read or write the disk; more calls are refused")
      ->check(CLI::Range(4, 10'000));
  add("drain_delay_seconds", options.drain_delay_seconds,
      "Seconds after SIGTERM in which health says NOT_SERVING already and calls are answered as "
      "before, so that callers find other servers; then no new calls are taken")
      ->check(CLI::Range(0, 3600));
  add("drain_seconds", options.drain_seconds,
      "Seconds that calls may take to end after SIGTERM and the delay, and then trainers to save; "
      "the server ends within the delay and twice these")
      ->check(CLI::Range(0, 86'400));
  add("trainer", options.trainer, "Path of tasuki-trainer; default: beside this program");
  add("ready_file", options.ready_file,
      "File that gets the real addresses, as JSON, once the server serves");
  add("log_level", options.log_level,
      "Least grave line that is logged; `tasuki server log-level` changes it")
      ->check(
          CLI::IsMember(std::vector<std::string>(std::begin(kLogLevels), std::end(kLogLevels))));
  add("log_format", options.log_format, "How a line of the log looks")
      ->check(CLI::IsMember({"text", "json"}));
}

// A config file, whose first line that sets no flag, or one that was set above, is named.
class ConfigFile : public CLI::ConfigBase {
 public:
  explicit ConfigFile(const CLI::App& app) : app_(app) {}
  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    std::vector<CLI::ConfigItem> items;
    std::map<std::string, int> lines;  // by flag
    int number = 0;
    for (std::string line; std::getline(input, line);) {
      ++number;
      const auto fault = [&](const std::string& what) {
        return CLI::ConfigError(
            absl::StrCat(app_.get_config_ptr()->as<std::string>(), ":", number, what));
      };
      std::istringstream one(line);
      for (CLI::ConfigItem& item : CLI::ConfigBase::from_config(one)) {
        const CLI::Option* flag = app_.get_option_no_throw("--" + item.name);
        if (!item.parents.empty() || flag == nullptr) {
          throw fault(" sets no flag of tasukid: " + line);
        }
        if (flag->get_expected_min() > 0 && !absl::StrContains(line, '=')) {
          throw fault(" gives no value: " + line);
        }
        if (const auto [set, first] = lines.emplace(item.name, number); !first) {
          throw fault(
              absl::StrCat(" sets ", item.name, " again, which line ", set->second, " has set"));
        }
        items.push_back(std::move(item));
      }
    }
    return items;
  }

 private:
  const CLI::App& app_;
};

// The first argument of the form `--name=`, for whose value CLI11 would take the next argument,
// whatever that is; or "".
std::string FlagWithoutValue(int argc, const char* const* argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (absl::StartsWith(argument, "--") && argument.find('=') == argument.size() - 1) {
      return argument;
    }
  }
  return "";
}

// What TLS and tokens come to together. Answers a fault, or "".
std::string CheckAccess(const Options& options) {
  const bool tls = !options.tls_certificate.empty();
  if (tls != !options.tls_key.empty()) {
    return "--tls_certificate and --tls_key go together; give both or neither";
  }
  if (!tls && !options.tls_client_ca.empty()) {
    return "--tls_client_ca needs --tls_certificate and --tls_key";
  }
  const bool authenticated = !options.tokens_file.empty() || !options.tls_client_ca.empty();
  if (IsLoopback(options.listen) || (tls && authenticated) ||
      options.allow_unauthenticated_public_access) {
    return "";
  }
  return absl::StrCat(
      "other machines can reach ", options.listen, ", which needs ",
      tls ? "" : "TLS (--tls_certificate and --tls_key)", !tls && !authenticated ? " and " : "",
      authenticated ? "" : "authentication (--tokens_file or --tls_client_ca)",
      "; listen on 127.0.0.1, or say --allow_unauthenticated_public_access if that is meant");
}

// What depends on the machine. Answers a fault, or "".
std::string Resolve(Options& options) {
  for (std::string* address : {&options.metrics_listen, &options.health_listen}) {
    if (*address == "none") address->clear();
  }
  if (std::string fault = CheckAccess(options); !fault.empty()) return fault;
  std::error_code error;
  if (options.data_dir.empty()) return "--data_dir is empty; name a directory";
  options.data_dir = std::filesystem::absolute(options.data_dir, error).lexically_normal();
  if (error) return absl::StrCat("the working directory is gone (", error.message(), ")");
  if (options.data_dir.size() > 1 && options.data_dir.back() == '/') options.data_dir.pop_back();
  if (!options.ready_file.empty()) {
    const std::filesystem::path file = std::filesystem::absolute(options.ready_file, error);
    if (!std::filesystem::is_directory(file.parent_path(), error)) {
      return absl::StrCat("there is no directory for --ready_file=", options.ready_file);
    }
    if (std::filesystem::exists(file, error) && !std::filesystem::is_regular_file(file, error)) {
      return absl::StrCat("--ready_file=", options.ready_file, " is there and no file");
    }
  }
  if (options.trainer.empty()) {
    options.trainer = std::filesystem::path(OwnPath()).replace_filename("tasuki-trainer");
  }
  options.trainer = std::filesystem::absolute(options.trainer, error);
  if (access(options.trainer.c_str(), X_OK) != 0 ||
      std::filesystem::is_directory(options.trainer, error)) {
    return absl::StrCat("there is no program ", options.trainer,
                        "; install tasuki-trainer beside tasukid or name it with --trainer");
  }
  return "";
}

}  // namespace

bool IsLoopback(const std::string& address) {
  std::string host = address.substr(0, address.rfind(':'));
  if (host == "localhost") return true;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  in_addr v4{};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
  in6_addr v6{};
  return inet_pton(AF_INET6, host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

std::string OwnPath() {
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
  return length > 0 ? std::string(path, length) : "tasukid";
}

ParsedOptions ParseOptions(int argc, const char* const* argv) {
  ParsedOptions parsed;
  if (const std::string flag = FlagWithoutValue(argc, argv); !flag.empty()) {
    parsed.finished = true;
    parsed.exit_code = kExitBadSetup;
    parsed.output =
        absl::StrCat("tasukid: ", flag, " has no value; give one, or leave the flag out.\n");
    return parsed;
  }
  CLI::App app("tasukid fine-tunes T5 text classifiers as managed jobs and serves them over gRPC.",
               "tasukid");
  app.set_version_flag("--version", std::string("tasukid ") + TASUKI_VERSION);
  app.config_formatter(std::make_shared<ConfigFile>(app));
  app.set_config("--config", "", "File with flags, one NAME=VALUE a line")
      ->envname("TASUKI_CONFIG");
  app.allow_config_extras(CLI::config_extras_mode::error);
  app.footer(
      "A flag on the command line is taken before the config file, that before the "
      "environment, that before the default.");
  Declare(app, parsed.options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {  // --help, --version
    std::ostringstream out;
    parsed.finished = true;
    parsed.exit_code = app.exit(asked, out, out);
    parsed.output = out.str();
    return parsed;
  } catch (const CLI::ParseError& error) {
    parsed.finished = true;
    parsed.exit_code = kExitBadSetup;
    const bool extra = error.get_exit_code() == static_cast<int>(CLI::ExitCodes::ExtrasError);
    const std::string fault = extra ? "not expected: " + absl::StrJoin(app.remaining(), " ")
                                    : error.what();  // CLI11 has the extra ones in reverse
    parsed.output = absl::StrCat("tasukid: ", fault, " (see tasukid --help).\n");
    return parsed;
  }
  if (const std::string fault = Resolve(parsed.options); !fault.empty()) {
    parsed.finished = true;
    parsed.exit_code = kExitBadSetup;
    parsed.output = absl::StrCat("tasukid: ", fault, ".\n");
  }
  return parsed;
}

}  // namespace tasuki
