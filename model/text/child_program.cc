#include "model/text/child_program.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "model/files/spawn.h"

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

}  // namespace

absl::StatusOr<ProgramEnd> RunProgram(const std::string& name,
                                      const std::vector<std::string>& arguments) {
  const absl::StatusOr<std::string> program = FindProgram(name);
  if (!program.ok()) return program.status();
  int output[2];
  if (pipe2(output, O_CLOEXEC) != 0) return SystemError(errno, "make a pipe to", *program);
  pid_t pid = -1;
  const int error = Spawn({*program, arguments, {-1, output[1], output[1]}}, pid);
  close(output[1]);
  ProgramEnd end;
  char buffer[kOutputBytes];
  for (ssize_t got = 1; error == 0 && got != 0;) {
    got = read(output[0], buffer, sizeof(buffer));
    if (got < 0 && errno != EINTR) break;
    if (got > 0) end.output.append(buffer, got);
    if (end.output.size() > kOutputBytes) end.output.erase(0, end.output.size() - kOutputBytes);
  }
  close(output[0]);
  if (error != 0) return SystemError(error, "start", *program);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return SystemError(errno, "wait for", *program);
  }
  if (WIFEXITED(status)) end.exit_code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) end.signal = WTERMSIG(status);
  return end;
}

}  // namespace tasuki
