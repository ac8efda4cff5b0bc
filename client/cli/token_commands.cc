#include <openssl/rand.h>

#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/table.h"
#include "client/sha256.h"

namespace tasuki::cli {
namespace {

constexpr int kRandomBytes = 32;  // 256 bits, which nobody guesses

// The beginning says to people, and to programs that look for leaked secrets, what it is.
absl::StatusOr<std::string> NewToken() {
  std::string bytes(kRandomBytes, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), kRandomBytes) != 1) {
    return absl::InternalError("the system gives no random bytes");
  }
  return absl::StrCat("tasuki_", absl::WebSafeBase64Escape(bytes));
}

}  // namespace

void AddTokenCommands(CLI::App& app, Session& session) {
  CLI::App* token =
      app.add_subcommand("token", "Tokens of a server\'s users")->require_subcommand(1);
  CLI::App* create =
      token
          ->add_subcommand("create",
                           "Makes a new token and the line that admits it; asks no server")
          ->footer(
              "The token is shown this once: give it to who is to use it. The line goes into the\n"
              "server\'s --tokens_file, which has only a hash of the token.\n"
              "Example: tasuki token create --name app1 --role classify");
  struct Wanted {
    std::string name, role;
  };
  const auto wanted = std::make_shared<Wanted>();
  create->add_option("--name", wanted->name, "Whose it is, for you and the server\'s messages")
      ->required()
      ->check(CLI::Validator(
          [](const std::string& name) {
            const bool good = !name.empty() && name.size() <= 63 &&
                              name.find_first_not_of(
                                  "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                  "0123456789-_.") == std::string::npos;
            return good ? std::string()
                        : "\"" + name +
                              "\" is not of 1 to 63 letters, digits, \"-\", \"_\" and \".\"";
          },
          "NAME"));
  create
      ->add_option("--role", wanted->role,
                   "read: see jobs, datasets and models; classify: classify texts; train: also "
                   "upload, import and train; admin: everything")
      ->required()
      ->check(CLI::IsMember({"read", "classify", "train", "admin"}));
  session.Bind(create, [&session, wanted](Client&) -> absl::Status {
    const auto made = NewToken();
    if (!made.ok()) return made.status();
    client::Sha256 hash;
    hash.Update(*made);
    const std::string line =
        absl::StrCat(wanted->name, " ", wanted->role, " sha256:", hash.Finish());
    if (session.json()) {
      std::cout << nlohmann::json({{"token", *made}, {"line", line}}).dump(2) << "\n";
    } else {
      std::cout << Details({{"token", *made}, {"line for --tokens_file", line}});
    }
    return absl::OkStatus();
  });
}

}  // namespace tasuki::cli
