#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/commands.h"
#include "client/cli/names.h"
#include "client/cli/table.h"
#include "client/cli/text.h"
#include "client/cli/text_file.h"

namespace tasuki::cli {
namespace {

// A request takes 256 texts. Its bytes are kept to what takes a server seconds, not minutes.
constexpr size_t kTextsPerRequest = 256;
constexpr size_t kBytesPerRequest = 64 << 10;

struct Classification {
  std::string model;
  std::vector<std::string> tasks;
  std::vector<std::string> texts;
  std::string file;
  std::string format, quoting;
  std::string text_column = "text";
  int top_k = 0;
  std::string truncation = "head";
  std::string out;
  std::string out_format;
};

// Where texts come from, one after the other; nothing at the end.
using Texts = std::function<absl::StatusOr<std::optional<std::string>>()>;

TextFormat FormatOf(const Classification& what) {
  static const std::map<std::string, TextFormat::Kind> kinds = {{"lines", TextFormat::kLines},
                                                                {"tsv", TextFormat::kTsv},
                                                                {"csv", TextFormat::kCsv},
                                                                {"jsonl", TextFormat::kJsonLines}};
  TextFormat format;
  format.kind = what.format.empty() ? TextFormat::KindOf(what.file) : kinds.at(what.format);
  format.quoting = what.quoting != "none";
  format.text_column = what.text_column;
  return format;
}

absl::StatusOr<Texts> TextsOf(const Classification& what) {
  if (!what.texts.empty()) {
    return Texts([&texts = what.texts,
                  i = size_t{0}]() mutable -> absl::StatusOr<std::optional<std::string>> {
      if (i == texts.size()) return std::nullopt;
      if (!IsUtf8(texts[i])) {  // gRPC would only say that the call failed
        return absl::InvalidArgumentError(
            absl::StrCat("text ", i + 1, " is not UTF-8; convert it first"));
      }
      return texts[i++];
    });
  }
  auto file = TextFile::Open(what.file.empty() ? "-" : what.file, FormatOf(what));
  if (!file.ok()) return file.status();
  return Texts(
      [file = std::shared_ptr<TextFile>(*std::move(file)), show = ShowTransfer("classifying")]() {
        auto text = file->Next();
        if (show == nullptr) return text;
        const bool over = !text.ok() || !text->has_value();
        show(over ? -1 : file->done_bytes() - 1, over ? -1 : file->total_bytes());
        return text;
      });
}

// The next request: as many texts as fit. None at the end.
absl::StatusOr<std::optional<v1::ClassifyRequest>> NextRequest(const v1::ClassifyRequest& like,
                                                               const Texts& next) {
  v1::ClassifyRequest request = like;
  size_t bytes = 0;
  while (request.texts_size() < kTextsPerRequest && bytes < kBytesPerRequest) {
    auto text = next();
    if (!text.ok()) return text.status();
    if (!text->has_value()) break;
    bytes += (*text)->size();
    request.add_texts(**std::move(text));
  }
  if (request.texts().empty()) return std::nullopt;
  return request;
}

// What every request is like.
v1::ClassifyRequest RequestOf(const Classification& what) {
  static const std::map<std::string, v1::ClassifyRequest::Truncation> truncations = {
      {"head", v1::ClassifyRequest::HEAD},
      {"head-and-tail", v1::ClassifyRequest::HEAD_AND_TAIL},
      {"error", v1::ClassifyRequest::ERROR}};
  v1::ClassifyRequest request;
  request.set_model(what.model);
  request.mutable_tasks()->Assign(what.tasks.begin(), what.tasks.end());
  request.set_top_k(what.top_k);
  request.set_truncation(truncations.at(what.truncation));
  request.set_priority(what.texts.empty() ? v1::ClassifyRequest::BULK
                                          : v1::ClassifyRequest::INTERACTIVE);
  return request;
}

// Classifies all texts by one version: the one that answered first. Each request is handed to `use`
// with its answer, in the order of the texts.
absl::Status ClassifyAll(Client& client, const Classification& what, const Texts& next,
                         const UseClassification& use) {
  v1::ClassifyRequest like = RequestOf(what);
  const auto first = NextRequest(like, next);
  if (!first.ok()) return first.status();
  if (!first->has_value()) return absl::OkStatus();
  const auto answer = client.Classify(**first);
  if (!answer.ok()) return answer.status();
  if (absl::Status status = use(**first, *answer); !status.ok()) return status;
  like.set_model(answer->model_version());
  auto second = NextRequest(like, next);
  if (!second.ok()) return second.status();
  if (!second->has_value()) return absl::OkStatus();  // one call was enough
  return client.ClassifyStream(
      [&]() -> absl::StatusOr<std::optional<v1::ClassifyRequest>> {
        if (second->has_value()) return std::exchange(*second, std::nullopt);
        return NextRequest(like, next);
      },
      use);
}

std::string RemarkOn(const v1::Prediction& prediction) {
  return absl::StrCat(prediction.abstained() ? "abstained" : "",
                      prediction.abstained() && prediction.truncated() ? ", " : "",
                      prediction.truncated() ? "truncated" : "");
}

double ProbabilityOf(const v1::Prediction& prediction) {
  return prediction.scores().empty() ? 0 : prediction.scores(0).probability();
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
                        table.Add({Shorten(Printable(request.texts(i)), 60), prediction.task(),
                                   prediction.label(), Figure(ProbabilityOf(prediction)),
                                   RemarkOn(prediction)});
                      }
                    }
                    return absl::OkStatus();
                  });
  if (!status.ok()) return status;
  if (session.json()) return PrintJson(all);
  std::cout << table.ToString();
  return absl::OkStatus();
}

// Writes answers as they come, in the order of the texts.
class AnswerWriter {
 public:
  AnswerWriter(std::ostream& out, bool tsv) : out_(out), tsv_(tsv) {
    if (tsv_) out_ << "row\ttask\tlabel\tprobability\tabstained\ttruncated\ttext\n";
  }

  absl::Status Write(const std::string& text, const v1::TextPredictions& predictions) {
    ++count_;
    if (tsv_) {
      for (const v1::Prediction& prediction : predictions.predictions()) {
        // What would end a field or line becomes a space.
        out_ << count_ << '\t' << prediction.task() << '\t' << Printable(prediction.label()) << '\t'
             << absl::StrFormat("%.9g", ProbabilityOf(prediction)) << '\t'
             << (prediction.abstained() ? "true" : "false") << '\t'
             << (prediction.truncated() ? "true" : "false") << '\t' << Printable(text) << '\n';
      }
    } else {
      const auto json = JsonLine(predictions);
      if (!json.ok()) return json.status();
      // {"text": …, "predictions": […]}
      out_ << "{\"text\":"
           << nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)
           << "," << json->substr(1) << "\n";
    }
    return out_ ? absl::OkStatus()
                : absl::DataLossError("the answers cannot be written; is the disk full?");
  }
  int64_t count() const { return count_; }

 private:
  std::ostream& out_;
  const bool tsv_;
  int64_t count_ = 0;
};

// Writes the answers to `out`; answers how many texts there were.
absl::StatusOr<int64_t> WriteAnswersTo(std::ostream& out, Client& client,
                                       const Classification& what, const Texts& next,
                                       std::string& version) {
  const bool by_name = TextFormat::KindOf(what.out) == TextFormat::kTsv;
  AnswerWriter writer(out, what.out_format.empty() ? by_name : what.out_format == "tsv");
  const absl::Status status = ClassifyAll(
      client, what, next,
      [&](const v1::ClassifyRequest& request, const v1::ClassifyResponse& answer) -> absl::Status {
        version = answer.model_version();
        if (answer.results_size() != request.texts_size()) {
          return absl::DataLossError(absl::StrCat("the server answered ", answer.results_size(),
                                                  " of ", request.texts_size(), " texts"));
        }
        for (int i = 0; i < answer.results_size(); ++i) {
          absl::Status written = writer.Write(request.texts(i), answer.results(i));
          if (!written.ok()) return written;
        }
        return absl::OkStatus();
      });
  if (!status.ok()) return status;
  if (!out.flush()) return absl::DataLossError("the answers cannot be written; is the disk full?");
  return writer.count();
}

// Writes beside `out` and renames at the end, so that `out` is complete or not there.
absl::Status WriteAnswers(Client& client, const Session& session, const Classification& what,
                          const Texts& next) {
  v1::ClassifyResponse total;  // only which version answered
  if (what.out == "-") {
    return WriteAnswersTo(std::cout, client, what, next, *total.mutable_model_version()).status();
  }
  const std::string beside = absl::StrCat(what.out, ".partial-", NewRequestId());
  std::ofstream file(beside, std::ios::binary);
  const int cause = errno;
  if (!file) return absl::ErrnoToStatus(cause, absl::StrCat("cannot write ", what.out));
  const auto count = WriteAnswersTo(file, client, what, next, *total.mutable_model_version());
  absl::Status status = count.status();
  file.close();
  if (status.ok() && std::rename(beside.c_str(), what.out.c_str()) != 0) {
    status = absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", what.out));
  }
  if (!status.ok()) {
    std::remove(beside.c_str());
    return status;
  }
  if (session.json()) return PrintJson(total);
  std::cout << Count(*count) << " texts classified by " << total.model_version() << " into "
            << what.out << "\n";
  return absl::OkStatus();
}

}  // namespace

void AddClassifyCommand(CLI::App& app, Session& session) {
  CLI::App* command =
      app.add_subcommand("classify", "Classifies texts by a trained model")
          ->footer(
              "Without texts and --file, the lines of stdin are classified. Files and stdin wait\n"
              "behind calls of others that are interactive, and for room in a full queue.\n"
              "Examples: tasuki classify --model reviews \"とても良い商品でした。\"\n"
              "          tasuki classify --model reviews@3 --file reviews.txt --out answers.jsonl\n"
              "          tasuki classify --model reviews@3 --file reviews.csv --text-column review "
              "--out answers.tsv");
  auto what = std::make_shared<Classification>();
  command->add_option("TEXTS", what->texts,
                      "The texts; put -- before them if one begins with a dash");
  command->add_option("--model", what->model, "The version, or a model for its newest loaded one")
      ->required()
      ->transform(Typed(ServedName));
  command->add_option("--task", what->tasks, "Only this task; repeatable")->allow_extra_args(false);
  command->add_option("--top-k", what->top_k, "Only the K most probable labels of each task")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--truncation", what->truncation,
                   "What is looked at of a text with too many tokens: head (default), "
                   "head-and-tail, or error to classify none")
      ->check(CLI::IsMember({"head", "head-and-tail", "error"}));
  auto* file = command->add_option(
      "--file", what->file,
      "One text a line, or a .tsv, .csv or .jsonl file with a column of texts; - for stdin");
  command
      ->add_option("--format", what->format,
                   "tsv, csv, jsonl or lines (default: by the file's name, else lines)")
      ->check(CLI::IsMember({"tsv", "csv", "jsonl", "lines"}));
  command->add_option("--text-column", what->text_column, "Column of the text (default: text)");
  command->add_option("--quoting", what->quoting, "rfc4180 (default) or none")
      ->check(CLI::IsMember({"rfc4180", "none"}));
  command->add_option("--out", what->out,
                      "Write the answers here, complete or not at all; - for stdout, as they come");
  command
      ->add_option("--out-format", what->out_format,
                   "jsonl or tsv (default: tsv if --out ends in .tsv, else jsonl)")
      ->check(CLI::IsMember({"jsonl", "tsv"}));
  command->callback([what, file, &session] {
    if (!what->texts.empty() && file->count() > 0) {
      throw CLI::ValidationError("give texts or --file, not both");
    }
    if (what->texts.empty() && file->count() == 0 && IsTerminal(STDIN_FILENO)) {
      throw CLI::ValidationError("give texts as arguments, with --file or on stdin");
    }
    if (!what->out_format.empty() && what->out.empty()) {
      throw CLI::ValidationError("--out-format is of --out; give that, too");
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
