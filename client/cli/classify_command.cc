#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <deque>
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
#include "absl/strings/str_join.h"
#include "client/cli/commands.h"
#include "client/cli/names.h"
#include "client/cli/table.h"
#include "client/cli/text.h"
#include "client/cli/text_file.h"
#include "client/errors.h"
#include "model/errors/utf8.h"

namespace tasuki::cli {
namespace {

// A request takes 256 texts. Its bytes are kept to what takes a server seconds, not minutes.
constexpr size_t kTextsPerRequest = 256;
constexpr size_t kBytesPerRequest = 64 << 10;

struct Classification {
  std::string model;
  std::vector<std::string> tasks;
  std::vector<std::string> texts;
  std::string never;
  std::string file;
  std::string format, quoting;
  std::string text_column = "text";
  int top_k = 0;
  std::string truncation = "head";
  std::string out;
  std::string out_format;
};

// Where texts come from.
struct Texts {
  // The next one; nothing at the end.
  std::function<absl::StatusOr<std::optional<std::string>>()> next;
  // Whether that can be had without waiting.
  std::function<bool()> at_hand;
};

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
    return Texts{[&texts = what.texts,
                  i = size_t{0}]() mutable -> absl::StatusOr<std::optional<std::string>> {
                   if (i == texts.size()) return std::nullopt;
                   // gRPC would only say that the call failed.
                   if (FirstInvalidUtf8(texts[i]) != absl::string_view::npos) {
                     return absl::InvalidArgumentError(
                         absl::StrCat("text ", i + 1, " is not UTF-8; convert it first"));
                   }
                   return texts[i++];
                 },
                 [] { return true; }};
  }
  auto opened = TextFile::Open(what.file.empty() ? "-" : what.file, FormatOf(what));
  if (!opened.ok()) return opened.status();
  const std::shared_ptr<TextFile> file = *std::move(opened);
  return Texts{[file, show = ShowTransfer("classifying")]() {
                 auto text = file->Next();
                 if (show == nullptr) return text;
                 const bool over = !text.ok() || !text->has_value();
                 show(over ? -1 : file->done_bytes() - 1, over ? -1 : file->total_bytes());
                 return text;
               },
               [file] { return file->at_hand(); }};
}

// The next request: a text, and those at hand that fit. None at the end.
absl::StatusOr<std::optional<v1::ClassifyRequest>> NextRequest(const v1::ClassifyRequest& like,
                                                               const Texts& texts) {
  v1::ClassifyRequest request = like;
  size_t bytes = 0;
  while (request.texts_size() < kTextsPerRequest && bytes < kBytesPerRequest &&
         (request.texts().empty() || texts.at_hand())) {
    auto text = texts.next();
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

// Classifies all texts. The version that answered first answers all, for as long as it is in
// service; then it is for the alias or model that was asked to say which goes on. Each request is
// handed to `use` with its answer, in the order of the texts, before texts are waited for.
absl::Status ClassifyAll(Client& client, const Classification& what, const Texts& texts,
                         const UseClassification& use) {
  v1::ClassifyRequest like = RequestOf(what);
  const auto first = NextRequest(like, texts);
  if (!first.ok()) return first.status();
  if (!first->has_value()) {  // one empty text tells whether there would be answers
    v1::ClassifyRequest request = like;
    request.add_texts("");
    auto answer = client.Classify(request);
    if (!answer.ok()) return answer.status();
    answer->clear_results();
    return use(like, *answer);
  }
  const auto answer = client.Classify(**first);
  if (!answer.ok()) return answer.status();
  if (absl::Status status = use(**first, *answer); !status.ok()) return status;

  std::string model = answer->model_version();
  std::deque<v1::ClassifyRequest> asked;  // not answered
  const auto read = [&]() -> absl::StatusOr<bool> {
    auto request = NextRequest(like, texts);
    if (!request.ok()) return request.status();
    const bool more = request->has_value();
    if (more) asked.push_back(**std::move(request));
    return more;
  };
  while (true) {
    if (asked.empty()) {
      const auto more = read();
      if (!more.ok() || !*more) return more.status();
    }
    size_t sent = 0;  // of these, on this stream; it ends where texts are to be waited for
    const absl::Status status = client.StreamClassify(
        [&]() -> absl::StatusOr<std::optional<v1::ClassifyRequest>> {
          if (sent == asked.size()) {
            if (!texts.at_hand()) return std::nullopt;
            const auto more = read();
            if (!more.ok()) return more.status();
            if (!*more) return std::nullopt;
          }
          v1::ClassifyRequest request = asked[sent++];
          request.set_model(model);
          return request;
        },
        [&](const v1::ClassifyRequest& request, const v1::ClassifyResponse& response) {
          asked.pop_front();
          --sent;
          model = response.model_version();
          return use(request, response);
        },
        [](const absl::Status& lost) {
          std::cerr << "tasuki: trying again: " << Printable(lost.message()) << "\n";
        });
    if (status.ok()) continue;
    const v1::ErrorReason reason = ReasonOf(status);
    const bool gone = reason == v1::MODEL_NOT_LOADED || reason == v1::RESOURCE_NOT_FOUND;
    if (!gone || model == what.model) return status;
    std::cerr << "tasuki: " << model << " is no longer in service; going on with what "
              << what.model << " is now\n";
    model = what.model;
  }
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
                          const Texts& texts) {
  v1::ClassifyResponse all;
  Table table({"TEXT", "TASK", "LABEL", "PROBABILITY>", ""});
  const absl::Status status =
      ClassifyAll(client, what, texts,
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

absl::Status Unwritten() {
  return absl::DataLossError("the answers cannot be written; is the disk full?");
}

// Writes answers as they come, in the order of the texts.
class AnswerWriter {
 public:
  AnswerWriter(std::ostream& out, bool tsv) : out_(out), tsv_(tsv) {
    if (tsv_) out_ << "row\ttask\tlabel\tprobability\tabstained\ttruncated\tmodel_version\ttext\n";
  }

  absl::Status Write(const std::string& text, const v1::TextPredictions& predictions,
                     const std::string& version) {
    ++count_;
    if (tsv_) {
      for (const v1::Prediction& prediction : predictions.predictions()) {
        // What would end a field or line becomes a space.
        out_ << count_ << '\t' << prediction.task() << '\t' << Printable(prediction.label()) << '\t'
             << absl::StrFormat("%.9g", ProbabilityOf(prediction)) << '\t'
             << (prediction.abstained() ? "true" : "false") << '\t'
             << (prediction.truncated() ? "true" : "false") << '\t' << version << '\t'
             << Printable(text) << '\n';
      }
    } else {
      const auto json = JsonLine(predictions);
      if (!json.ok()) return json.status();
      // {"text": …, "model_version": …, "predictions": […]}
      out_ << "{\"text\":"
           << nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)
           << ",\"model_version\":" << nlohmann::json(version).dump() << "," << json->substr(1)
           << "\n";
    }
    return out_ ? absl::OkStatus() : Unwritten();
  }
  int64_t count() const { return count_; }

 private:
  std::ostream& out_;
  const bool tsv_;
  int64_t count_ = 0;
};

// Writes the answers to `out`; answers how many texts there were. `versions` gets who answered.
absl::StatusOr<int64_t> WriteAnswersTo(std::ostream& out, Client& client,
                                       const Classification& what, const Texts& texts,
                                       std::vector<std::string>& versions) {
  const bool by_name = TextFormat::KindOf(what.out) == TextFormat::kTsv;
  AnswerWriter writer(out, what.out_format.empty() ? by_name : what.out_format == "tsv");
  const absl::Status status = ClassifyAll(
      client, what, texts,
      [&](const v1::ClassifyRequest& request, const v1::ClassifyResponse& answer) -> absl::Status {
        const std::string& version = answer.model_version();
        if (versions.empty() || versions.back() != version) versions.push_back(version);
        if (answer.results_size() != request.texts_size()) {
          return absl::DataLossError(absl::StrCat("the server answered ", answer.results_size(),
                                                  " of ", request.texts_size(), " texts"));
        }
        for (int i = 0; i < answer.results_size(); ++i) {
          absl::Status written = writer.Write(request.texts(i), answer.results(i), version);
          if (!written.ok()) return written;
        }
        return out.flush() ? absl::OkStatus() : Unwritten();
      });
  if (!status.ok()) return status;
  return writer.count();
}

// Writes beside `out` and renames at the end, so that `out` is complete or not there.
absl::Status WriteAnswers(Client& client, const Session& session, const Classification& what,
                          const Texts& texts) {
  std::vector<std::string> versions;
  if (what.out == "-") return WriteAnswersTo(std::cout, client, what, texts, versions).status();
  const std::string beside = absl::StrCat(what.out, ".partial-", NewRequestId());
  std::ofstream file(beside, std::ios::binary);
  const int cause = errno;
  if (!file) return absl::ErrnoToStatus(cause, absl::StrCat("cannot write ", what.out));
  const auto count = WriteAnswersTo(file, client, what, texts, versions);
  absl::Status status = count.status();
  file.close();
  if (status.ok() && std::rename(beside.c_str(), what.out.c_str()) != 0) {
    status = absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", what.out));
  }
  if (!status.ok()) {
    std::remove(beside.c_str());
    return status;
  }
  if (session.json()) {
    v1::ClassifyResponse total;  // only which version answered last
    total.set_model_version(versions.back());
    return PrintJson(total);
  }
  std::cout << Count(*count) << " texts classified by " << absl::StrJoin(versions, ", then ")
            << " into " << what.out << "\n";
  return absl::OkStatus();
}

// Leaves out of the usage line, too, what is not shown.
class Help : public CLI::Formatter {
  std::string make_option_usage(const CLI::Option* option) const override {
    return option->get_group().empty() ? "" : CLI::Formatter::make_option_usage(option);
  }
};

}  // namespace

void AddClassifyCommand(CLI::App& app, Session& session) {
  CLI::App* command =
      app.add_subcommand("classify", "Classifies texts by a trained model")
          ->footer(
              "Without texts and --file, the lines of stdin are classified. Files and stdin wait\n"
              "behind calls of others that are interactive, for room in a full queue, and, once\n"
              "there were answers, two minutes for a server that went away.\n"
              "The version that answers first answers all. If it is taken out of service, the\n"
              "alias or model goes on with another; each row of --out says which answered it.\n"
              "Examples: tasuki classify --model reviews \"とても良い商品でした。\"\n"
              "          tasuki classify --model reviews@production --file reviews.txt --out "
              "answers.jsonl\n"
              "          tasuki classify --model reviews@3 --file reviews.csv --text-column review "
              "--out answers.tsv");
  auto what = std::make_shared<Classification>();
  command->add_option("TEXTS", what->texts,
                      "The texts; put -- before those that begin with a dash");
  // Never filled, and not shown: CLI11 heeds -- only while a place for an argument is empty.
  command->add_option("TEXT", what->never)->group("");
  command->formatter(std::make_shared<Help>());
  command
      ->add_option("--model", what->model,
                   "The version (reviews@3), an alias (reviews@production), or a model for its "
                   "newest version in service (reviews)")
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
                   "jsonl or tsv (default: by the end of --out, .jsonl or .tsv; jsonl for -)")
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
    const TextFormat::Kind kind = TextFormat::KindOf(what->out);
    if (!what->out.empty() && what->out != "-" && what->out_format.empty() &&
        kind != TextFormat::kTsv && kind != TextFormat::kJsonLines) {
      throw CLI::ValidationError("--out " + what->out +
                                 " ends in neither .jsonl nor .tsv; say which with --out-format");
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
