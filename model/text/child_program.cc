#include "model/text/child_program.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "model/errors/errors.h"
#include "model/files/durable.h"

namespace tasuki {
namespace {

constexpr size_t kOutputBytes = 4096;

absl::StatusOr<std::string> FindProgram(const std::string& name) {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  for (const auto& folder : {self.parent_path(), self.parent_path() / "bin"}) {
    if (std::filesystem::exists(folder / name, error)) return (folder / name).string();
  }
  return MakeError(absl::StatusCode::kNotFound, v1::RESOURCE_NOT_FOUND,
                   "the program " + name + " is not beside " + self.filename().string());
}

// Default signals, none blocked; no descriptors but `output` as standard output and error.
absl::StatusOr<pid_t> Spawn(const std::string& program, std::vector<char*> argv, int output) {
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t signals;
  sigemptyset(&signals);
  posix_spawnattr_setsigmask(&attributes, &signals);
  sigfillset(&signals);
  posix_spawnattr_setsigdefault(&attributes, &signals);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, output, 1);
  posix_spawn_file_actions_adddup2(&actions, output, 2);
  posix_spawn_file_actions_addclosefrom_np(&actions, 3);
  pid_t pid = -1;
  const int error = posix_spawn(&pid, program.c_str(), &actions, &attributes, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) return SystemError(error, "start", program);
  return pid;
}

}  // namespace

absl::StatusOr<ProgramEnd> RunProgram(const std::string& name,
                                      const std::vector<std::string>& arguments) {
  const absl::StatusOr<std::string> program = FindProgram(name);
  if (!program.ok()) return program.status();
  std::vector<char*> argv = {const_cast<char*>(name.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);

  int output[2];
  if (pipe2(output, O_CLOEXEC) != 0) return SystemError(errno, "make a pipe to", *program);
  const absl::StatusOr<pid_t> pid = Spawn(*program, std::move(argv), output[1]);
  close(output[1]);
  ProgramEnd end;
  char buffer[kOutputBytes];
  for (ssize_t got = 1; pid.ok() && got != 0;) {
    got = read(output[0], buffer, sizeof(buffer));
    if (got < 0 && errno != EINTR) break;
    if (got > 0) end.output.append(buffer, got);
    if (end.output.size() > kOutputBytes) end.output.erase(0, end.output.size() - kOutputBytes);
  }
  close(output[0]);
  if (!pid.ok()) return pid.status();
  int status = 0;
  while (waitpid(*pid, &status, 0) < 0) {
    if (errno != EINTR) return SystemError(errno, "wait for", *program);
  }
  if (WIFEXITED(status)) end.exit_code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) end.signal = WTERMSIG(status);
  return end;
}

}  // namespace tasuki
