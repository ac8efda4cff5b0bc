#include "client/cli/dataset_views.h"

#include <iostream>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/names.h"
#include "client/cli/table.h"
#include "client/cli/text.h"

namespace tasuki::cli {
namespace {

struct InspectOptions {
  int rows = 10;
  int max_input_tokens = 512;
  std::string model_version;
  std::string prefix;
};

void PrintSame(const std::string& what, int64_t count,
               const google::protobuf::RepeatedPtrField<v1::SameText>& rows) {
  if (count == 0) return;
  std::cout << "\n" << what << "\n";
  Table table({"ROW>", "LABEL", "ROW>", "LABEL", "TEXT"});
  for (const v1::SameText& row : rows) {
    table.Add({Count(row.row()), row.label(), Count(row.other_row()), row.other_label(),
               Shorten(Printable(row.text()), 60)});
  }
  std::cout << table.ToString();
  if (rows.size() < count) std::cout << "and " << Count(count - rows.size()) << " more\n";
}

void PrintReports(const v1::InspectDatasetResponse& answer) {
  Table table({"DATASET", "NAME", "ROWS>", "DUPLICATE>", "CONFLICTING>", "EMPTY>", "LABELS"});
  for (const v1::DatasetReport& report : answer.reports()) {
    const v1::Dataset& dataset = report.dataset();
    table.Add({ShortName(dataset.name()), dataset.display_name(), Count(dataset.row_count()),
               Count(report.duplicate_row_count()), Count(report.conflicting_row_count()),
               Count(report.empty_text_count()), Shorten(LabelsOf(dataset), 48)});
  }
  std::cout << table.ToString();
  Table tokens({"DATASET", "TOKENS: 50%>", "90%>", "95%>", "99%>", "MAX>", "TOTAL>", "CUT>",
                "SHARE>", "WITH UNKNOWN>"});
  for (const v1::DatasetReport& report : answer.reports()) {
    if (!report.has_token_lengths()) continue;
    const auto& lengths = report.token_lengths();
    tokens.Add(
        {ShortName(report.dataset().name()), Count(lengths.p50()), Count(lengths.p90()),
         Count(lengths.p95()), Count(lengths.p99()), Count(lengths.max()), Count(lengths.total()),
         absl::StrCat(Count(lengths.cut_row_count()), " at ", lengths.max_input_tokens()),
         absl::StrFormat("%.2f%%", 100 * lengths.cut_share()), Count(lengths.unknown_row_count())});
  }
  if (answer.reports_size() > 0 && answer.reports(0).has_token_lengths()) {
    std::cout << "\n" << tokens.ToString();
  }
  for (const v1::DatasetReport& report : answer.reports()) {
    const std::string name = ShortName(report.dataset().name());
    PrintSame(absl::StrCat(name, ": the same text with another label"),
              report.conflicting_row_count(), report.conflicts());
    PrintSame(absl::StrCat(name, ": the same text and label"), report.duplicate_row_count(),
              report.duplicates());
    if (report.empty_text_count() > 0) {
      std::cout << "\n"
                << name << ": texts of spaces or nothing in rows "
                << absl::StrJoin(report.empty_text_rows(), ", ")
                << (report.empty_text_rows_size() < report.empty_text_count() ? ", …\n" : "\n");
    }
  }
  for (const v1::DatasetOverlap& overlap : answer.overlaps()) {
    PrintSame(
        absl::StrCat(Count(overlap.row_count()), " rows of ", ShortName(overlap.other_dataset()),
                     " are also in ", ShortName(overlap.dataset()), ", ",
                     Count(overlap.conflicting_row_count()), " with another label"),
        overlap.row_count(), overlap.rows());
  }
}

}  // namespace

std::string LabelsOf(const v1::Dataset& dataset) {
  if (!dataset.labelled()) return "texts only";
  return absl::StrJoin(dataset.label_counts(), "; ", [](std::string* out, const auto& label) {
    absl::StrAppend(out, label.value(), ": ", Count(label.row_count()));
  });
}

void PrintDataset(const v1::Dataset& dataset) {
  std::cout << Details({{"name", dataset.name()},
                        {"display name", dataset.display_name()},
                        {"rows", Count(dataset.row_count())},
                        {"labels", LabelsOf(dataset)},
                        {"size", Bytes(dataset.size_bytes())},
                        {"longest text", Bytes(dataset.max_text_bytes())},
                        {"ignored columns", absl::StrJoin(dataset.ignored_columns(), ", ")},
                        {"sha256", dataset.sha256()},
                        {"created", DateTime(dataset.create_time())}});
}

void AddInspectCommand(CLI::App& dataset, Session& session) {
  CLI::App* command =
      dataset
          .add_subcommand("inspect",
                          "Shows the first rows of a dataset, and what all its rows show: "
                          "duplicates, conflicting labels, token lengths, and which texts other "
                          "datasets have as well")
          ->footer(
              "Example: tasuki dataset inspect d-0123456789abcdef d-89abcdef01234567 "
              "--model-version base@1");
  auto names = std::make_shared<std::vector<std::string>>();
  auto options = std::make_shared<InspectOptions>();
  command
      ->add_option("DATASETS", *names, "The dataset, and others of the same task to compare with")
      ->required()
      ->expected(1, 8)
      ->transform(Typed(DatasetName));
  command->add_option("--rows", options->rows, "First rows shown (default: 10)")
      ->check(CLI::Range(1, 100));
  command
      ->add_option("--model-version", options->model_version,
                   "Count the tokens of this version's tokenizer")
      ->transform(Typed(ModelOrVersionName));
  command->add_option("--prefix", options->prefix, "What the task puts before every text");
  command
      ->add_option("--max-input-tokens", options->max_input_tokens,
                   "Where a job would cut (default: 512)")
      ->check(CLI::Range(8, 4096));
  session.Bind(command, [names, options, &session](Client& client) -> absl::Status {
    v1::InspectDatasetRequest request;
    request.set_name(names->front());
    request.set_row_count(options->rows);
    request.set_report(true);
    request.mutable_other_datasets()->Assign(names->begin() + 1, names->end());
    request.set_model_version(options->model_version);
    request.set_prefix(options->prefix);
    request.set_max_input_tokens(options->max_input_tokens);
    const auto answer = client.InspectDataset(request);
    if (!answer.ok()) return answer.status();
    if (session.json()) return PrintJson(*answer);
    Table table({"LABEL", "TEXT"});
    for (const auto& example : answer->examples()) {
      table.Add({example.label(), Shorten(Printable(example.text()), 100)});
    }
    std::cout << table.ToString() << "\n";
    PrintReports(*answer);
    return absl::OkStatus();
  });
}

}  // namespace tasuki::cli
