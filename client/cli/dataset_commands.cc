#include <algorithm>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/dataset_views.h"
#include "client/cli/names.h"
#include "client/cli/table.h"
#include "client/cli/text.h"

namespace tasuki::cli {
namespace {

struct Upload {
  std::string file;
  std::string name;
  std::string format;
  std::string quoting;
  std::string text_column;
  std::string label_column;
  std::vector<std::string> map;
  bool no_header = false;
  bool texts_only = false;
};

// A display name has at most 63 characters.
std::string FirstCharacters(const std::string& text, int count) {
  size_t end = 0;
  while (end < text.size() && count > 0) {
    ++end;
    while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
    --count;
  }
  return text.substr(0, end);
}

v1::DatasetFormat::Kind KindOf(const Upload& upload) {
  static const std::map<std::string, v1::DatasetFormat::Kind> kinds = {
      {"tsv", v1::DatasetFormat::TSV},
      {"csv", v1::DatasetFormat::CSV},
      {"jsonl", v1::DatasetFormat::JSONL}};
  std::string kind = upload.format;
  if (kind.empty()) kind = std::filesystem::path(upload.file).extension().string();
  kind = absl::AsciiStrToLower(kind.substr(kind.starts_with('.') ? 1 : 0));
  const auto found = kinds.find(kind);
  if (found == kinds.end()) {
    throw CLI::ValidationError(
        "--format", upload.format.empty()
                        ? absl::StrCat("the format of ", upload.file,
                                       " does not follow from its name; give tsv, csv or jsonl")
                        : absl::StrCat("\"", upload.format, "\" is not one of tsv, csv, jsonl"));
  }
  return found->second;
}

// Adds VALUE=LABEL to the mapping.
void AddMapping(const std::string& assignment, v1::DatasetFormat& format) {
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals + 1 == assignment.size()) {
    throw CLI::ValidationError("--map",
                               absl::StrCat(assignment, " is not of the form VALUE=LABEL"));
  }
  const std::string value = assignment.substr(0, equals);
  const auto [place, added] =
      format.mutable_value_mapping()->insert({value, assignment.substr(equals + 1)});
  if (!added) throw CLI::ValidationError("--map", absl::StrCat("\"", value, "\" comes twice"));
}

v1::UploadDatasetHeader HeaderOf(const Upload& upload) {
  v1::UploadDatasetHeader header;
  const bool from_stdin = upload.file == "-";
  header.set_display_name(!upload.name.empty() ? upload.name
                          : from_stdin
                              ? ""
                              : FirstCharacters(std::filesystem::path(upload.file).stem(), 63));
  v1::DatasetFormat& format = *header.mutable_format();
  format.set_kind(KindOf(upload));
  if (upload.quoting == "none") format.set_quoting(v1::DatasetFormat::NONE);
  if (upload.quoting == "rfc4180") format.set_quoting(v1::DatasetFormat::RFC4180);
  format.set_text_column(upload.text_column);
  format.set_label_column(upload.label_column);
  format.set_texts_only(upload.texts_only);
  format.set_no_header(upload.no_header);
  for (const std::string& assignment : upload.map) AddMapping(assignment, format);
  return header;
}

void AddFileOptions(CLI::App& command, Upload& upload) {
  command.add_option("FILE", upload.file, "TSV, CSV or JSON Lines in UTF-8; - for stdin")
      ->required();
  command.add_option("--name", upload.name, "Name for people (default: that of the file)");
  command.add_option("--format", upload.format, "tsv, csv or jsonl (default: by the file's name)");
  command.add_option("--text-column", upload.text_column,
                     "Column of the text (default: text; 1 with --no-header)");
  command.add_option(
      "--label-column", upload.label_column,
      "Column of the label (default: label, or 2 with --no-header, if there is one)");
  command
      .add_option("--map", upload.map,
                  "VALUE=LABEL: the label to store for a value of the label column; repeatable. "
                  "Values that are not mapped are then bad rows")
      ->allow_extra_args(false);
  command.add_flag("--no-header", upload.no_header,
                   "The first line is a row; columns are numbered from 1");
  command.add_option("--quoting", upload.quoting, "rfc4180 (default) or none")
      ->check(CLI::IsMember({"rfc4180", "none"}));
  command.add_flag("--texts-only", upload.texts_only, "Keep no labels");
}

UploadSource SourceOf(const Upload& upload) {
  return upload.file == "-" ? UploadSource::Stream(std::cin) : UploadSource::File(upload.file);
}

void AddUpload(CLI::App& dataset, Session& session) {
  CLI::App* command =
      dataset.add_subcommand("upload", "Uploads a file of examples and shows the stored dataset")
          ->footer(
              "Examples: tasuki dataset upload train.tsv --text-column sentence\n"
              "          tasuki dataset upload stars.csv --no-header --map 1=negative --map "
              "5=positive\n"
              "          tasuki dataset upload reviews.jsonl --texts-only --name reviews");
  auto upload = std::make_shared<Upload>();
  AddFileOptions(*command, *upload);
  command->callback([upload, &session] {
    const auto header = HeaderOf(*upload);
    session.action = [upload, header, &session](Client& client) -> absl::Status {
      const auto answer =
          client.UploadDataset(SourceOf(*upload), header, ShowTransfer("uploading"));
      if (!answer.ok()) return answer.status();
      if (session.json()) return PrintJson(*answer);
      if (!header.display_name().empty() && answer->display_name() != header.display_name()) {
        std::cerr << "tasuki: these rows were there already, uploaded as \""
                  << answer->display_name() << "\".\n";
      }
      PrintDataset(*answer);
      return absl::OkStatus();
    };
  });
}

// OK if there is no bad row.
absl::Status OutcomeOf(const v1::CheckDatasetResponse& checked) {
  if (checked.bad_row_count() == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(Count(checked.bad_row_count()),
                                                 " rows are malformed, ",
                                                 Count(checked.dataset().row_count()), " are not"));
}

void AddCheck(CLI::App& dataset, Session& session) {
  CLI::App* command =
      dataset
          .add_subcommand("check",
                          "Checks a file as upload does, stores nothing, and shows every bad row; "
                          "fails if there is one")
          ->footer("Example: tasuki dataset check train.tsv --text-column sentence");
  auto upload = std::make_shared<Upload>();
  AddFileOptions(*command, *upload);
  command->callback([upload, &session] {
    const auto header = HeaderOf(*upload);
    session.action = [upload, header, &session](Client& client) -> absl::Status {
      const auto answer = client.CheckDataset(SourceOf(*upload), header, ShowTransfer("checking"));
      if (!answer.ok()) return answer.status();
      if (session.json()) {
        absl::Status printed = PrintJson(*answer);
        return printed.ok() ? OutcomeOf(*answer) : printed;
      }
      if (answer->bad_row_count() == 0) {
        PrintDataset(answer->dataset());
        return absl::OkStatus();
      }
      Table table({"ROW>", "LINE>", "COLUMN", "WHAT", "VALUE"});
      for (const auto& row : answer->bad_rows()) {
        table.Add({Count(row.row()), Count(row.line()), row.column(), row.cause(), row.value()});
      }
      std::cout << table.ToString();
      if (answer->bad_rows_size() < answer->bad_row_count()) {
        std::cout << "and " << Count(answer->bad_row_count() - answer->bad_rows_size())
                  << " more\n";
      }
      return OutcomeOf(*answer);
    };
  });
}

void AddList(CLI::App& dataset, Session& session) {
  CLI::App* command = dataset.add_subcommand("list", "Lists the datasets, newest first")
                          ->footer("Example: tasuki dataset list");
  session.Bind(command, [&session](Client& client) -> absl::Status {
    const auto answer = client.ListDatasets();
    if (!answer.ok()) return answer.status();
    if (session.json()) {
      v1::ListDatasetsResponse all;
      for (const auto& row : *answer) *all.add_datasets() = row;
      return PrintJson(all);
    }
    Table table({"DATASET", "NAME", "ROWS>", "SIZE>", "LABELS", "CREATED"});
    for (const auto& row : *answer) {
      table.Add({ShortName(row.name()), row.display_name(), Count(row.row_count()),
                 Bytes(row.size_bytes()), Shorten(LabelsOf(row), 48), DateTime(row.create_time())});
    }
    std::cout << table.ToString();
    return absl::OkStatus();
  });
}

CLI::App* AddNamed(CLI::App& dataset, const std::string& verb, const std::string& what,
                   std::string& name) {
  CLI::App* command =
      dataset.add_subcommand(verb, what)
          ->footer(absl::StrCat("Example: tasuki dataset ", verb, " d-0123456789abcdef"));
  command->add_option("DATASET", name, "The dataset")->required()->transform(Typed(DatasetName));
  return command;
}

void AddGet(CLI::App& dataset, Session& session) {
  auto name = std::make_shared<std::string>();
  session.Bind(AddNamed(dataset, "get", "Shows a dataset", *name),
               [name, &session](Client& client) -> absl::Status {
                 const auto answer = client.GetDataset(*name);
                 if (!answer.ok()) return answer.status();
                 if (session.json()) return PrintJson(*answer);
                 PrintDataset(*answer);
                 return absl::OkStatus();
               });
}

void AddDelete(CLI::App& dataset, Session& session) {
  auto name = std::make_shared<std::string>();
  session.Bind(AddNamed(dataset, "delete", "Deletes a dataset", *name),
               [name, &session](Client& client) -> absl::Status {
                 if (absl::Status status = client.DeleteDataset(*name); !status.ok()) return status;
                 if (session.json()) return PrintJson(google::protobuf::Empty());
                 std::cout << "deleted " << *name << "\n";
                 return absl::OkStatus();
               });
}

}  // namespace

void AddDatasetCommands(CLI::App& app, Session& session) {
  CLI::App* dataset =
      app.add_subcommand("dataset", "Uploaded files of examples")->require_subcommand(1);
  AddUpload(*dataset, session);
  AddCheck(*dataset, session);
  AddList(*dataset, session);
  AddGet(*dataset, session);
  AddInspectCommand(*dataset, session);
  AddDelete(*dataset, session);
}

}  // namespace tasuki::cli
