#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/names.h"
#include "client/cli/table.h"
#include "client/cli/text.h"

namespace tasuki::cli {
namespace {

// A request takes 256 texts; the bytes are kept well under the size of a message.
constexpr size_t kTextsPerRequest = 256;
constexpr size_t kBytesPerRequest = 1 << 20;

struct Classification {
  std::string model;
  std::vector<std::string> tasks;
  std::vector<std::string> texts;
  std::string file;
  std::string out;
};

// Where texts come from, one after the other; nothing at the end.
using Texts = std::function<absl::StatusOr<std::optional<std::string>>()>;

absl::StatusOr<std::optional<std::string>> NextLine(std::istream& input, const std::string& name) {
  std::string line;
  if (!std::getline(input, line)) {
    if (input.bad()) return absl::DataLossError(absl::StrCat("reading ", name, " failed"));
    return std::nullopt;
  }
  if (!line.empty() && line.back() == '\r') line.pop_back();
  return line;
}

// gRPC would only say that the call failed.
absl::Status NotUtf8(const std::string& where) {
  return absl::InvalidArgumentError(absl::StrCat(where, " is not UTF-8; convert it first"));
}

// The key `text` of a line of JSON.
absl::StatusOr<std::string> TextOfJson(const std::string& line, const std::string& name,
                                       int number) {
  const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("text") || !json["text"].is_string()) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ":", number, ": the line is not a JSON object with a string \"text\""));
  }
  return json["text"].get<std::string>();
}

absl::StatusOr<Texts> TextsOf(const Classification& what) {
  if (!what.texts.empty()) {
    return Texts([&texts = what.texts,
                  i = size_t{0}]() mutable -> absl::StatusOr<std::optional<std::string>> {
      if (i == texts.size()) return std::nullopt;
      if (!IsUtf8(texts[i])) return NotUtf8(absl::StrCat("text ", i + 1));
      return texts[i++];
    });
  }
  const bool from_stdin = what.file.empty() || what.file == "-";
  const std::string name = from_stdin ? "stdin" : what.file;
  std::shared_ptr<std::istream> input(&std::cin, [](std::istream*) {});
  if (!from_stdin) {
    input = std::make_shared<std::ifstream>(what.file, std::ios::binary);
    const int cause = errno;
    if (!*input) return absl::ErrnoToStatus(cause, absl::StrCat("cannot read ", what.file));
  }
  const bool is_json = absl::EndsWith(name, ".jsonl");
  return Texts([=, number = 0]() mutable -> absl::StatusOr<std::optional<std::string>> {
    auto line = NextLine(*input, name);
    ++number;
    if (line.ok() && *line && !IsUtf8(**line)) return NotUtf8(absl::StrCat(name, ":", number));
    if (!line.ok() || !*line || !is_json) return line;
    auto text = TextOfJson(**line, name, number);
    if (!text.ok()) return text.status();
    return *std::move(text);
  });
}

// Classifies all texts in requests of a size that a server takes, by one version: the one that
// answered first. Hands each request with its answer to `use`.
absl::Status ClassifyAll(Client& client, const Classification& what, const Texts& next,
                         const std::function<absl::Status(const v1::ClassifyRequest&,
                                                          const v1::ClassifyResponse&)>& use) {
  v1::ClassifyRequest request;
  request.set_model(what.model);
  for (const auto& task : what.tasks) request.add_tasks(task);
  bool more = true;
  while (more) {
    request.clear_texts();
    size_t bytes = 0;
    while (request.texts_size() < kTextsPerRequest && bytes < kBytesPerRequest) {
      auto text = next();
      if (!text.ok()) return text.status();
      more = text->has_value();
      if (!more) break;
      bytes += (*text)->size();
      request.add_texts(**std::move(text));
    }
    if (request.texts().empty()) break;
    const auto answer = client.Classify(request);
    if (!answer.ok()) return answer.status();
    request.set_model(answer->model_version());
    if (absl::Status status = use(request, *answer); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status PrintAnswers(Client& client, const Session& session, const Classification& what,
                          const Texts& next) {
  v1::ClassifyResponse all;
  Table table({"TEXT", "TASK", "LABEL", "PROBABILITY>", ""});
  const absl::Status status =
      ClassifyAll(client, what, next,
                  [&](const v1::ClassifyRequest& request, const v1::ClassifyResponse& answer) {
                    all.MergeFrom(answer);
                    for (int i = 0; i < answer.results_size() && !session.json(); ++i) {
                      for (const auto& prediction : answer.results(i).predictions()) {
                        const double probability =
                            prediction.scores().empty() ? 0 : prediction.scores(0).probability();
                        table.Add({Shorten(Printable(request.texts(i)), 60), prediction.task(),
                                   prediction.label(), Figure(probability),
                                   prediction.truncated() ? "truncated" : ""});
                      }
                    }
                    return absl::OkStatus();
                  });
  if (!status.ok()) return status;
  if (session.json()) return PrintJson(all);
  std::cout << table.ToString();
  return absl::OkStatus();
}

// Writes beside `out` and renames at the end, so that `out` is complete or not there.
absl::Status WriteAnswers(Client& client, const Session& session, const Classification& what,
                          const Texts& next) {
  const std::string beside = absl::StrCat(what.out, ".partial-", NewRequestId());
  std::ofstream file(beside, std::ios::binary);
  const int cause = errno;
  if (!file) return absl::ErrnoToStatus(cause, absl::StrCat("cannot write ", what.out));
  int64_t count = 0;
  v1::ClassifyResponse total;  // only which version answered
  absl::Status status = ClassifyAll(
      client, what, next,
      [&](const v1::ClassifyRequest& request, const v1::ClassifyResponse& answer) -> absl::Status {
        total.set_model_version(answer.model_version());
        for (int i = 0; i < answer.results_size(); ++i, ++count) {
          const auto predictions = JsonLine(answer.results(i));
          if (!predictions.ok()) return predictions.status();
          // {"text": …, "predictions": […]}
          const std::string text =
              nlohmann::json(request.texts(i))
                  .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
          file << "{\"text\":" << text << "," << predictions->substr(1) << "\n";
        }
        return absl::OkStatus();
      });
  file.close();
  if (status.ok() && !file) {
    status = absl::DataLossError(absl::StrCat(what.out, " cannot be written; is the disk full?"));
  }
  if (status.ok() && std::rename(beside.c_str(), what.out.c_str()) != 0) {
    status = absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", what.out));
  }
  if (!status.ok()) {
    std::remove(beside.c_str());
    return status;
  }
  if (session.json()) return PrintJson(total);
  std::cout << Count(count) << " texts classified by " << total.model_version() << " into "
            << what.out << "\n";
  return absl::OkStatus();
}

}  // namespace

void AddClassifyCommand(CLI::App& app, Session& session) {
  CLI::App* command =
      app.add_subcommand("classify", "Classifies texts by a trained model")
          ->footer(
              "Without texts and --file, the lines of stdin are classified.\n"
              "Examples: tasuki classify --model reviews \"とても良い商品でした。\"\n"
              "          tasuki classify --model reviews@3 --file reviews.txt --out answers.jsonl");
  auto what = std::make_shared<Classification>();
  command->add_option("TEXTS", what->texts,
                      "The texts; put -- before them if one begins with a dash");
  command->add_option("--model", what->model, "The version, or a model for its newest loaded one")
      ->required()
      ->transform(Typed(ModelOrVersionName));
  command->add_option("--task", what->tasks, "Only this task; repeatable")->allow_extra_args(false);
  auto* file = command->add_option("--file", what->file,
                                   "One text a line; of a .jsonl file the key text; - for stdin");
  command->add_option("--out", what->out, "Write the answers here as JSON Lines");
  command->callback([what, file, &session] {
    if (!what->texts.empty() && file->count() > 0) {
      throw CLI::ValidationError("give texts or --file, not both");
    }
    if (what->texts.empty() && file->count() == 0 && IsTerminal(STDIN_FILENO)) {
      throw CLI::ValidationError("give texts as arguments, with --file or on stdin");
    }
    session.action = [what, &session](Client& client) -> absl::Status {
      const auto texts = TextsOf(*what);
      if (!texts.ok()) return texts.status();
      return what->out.empty() ? PrintAnswers(client, session, *what, *texts)
                               : WriteAnswers(client, session, *what, *texts);
    };
  });
}

}  // namespace tasuki::cli
