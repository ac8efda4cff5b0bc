#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/commands.h"
#include "client/cli/evaluations.h"
#include "client/cli/job_views.h"
#include "client/cli/names.h"
#include "client/cli/table.h"
#include "client/cli/text.h"

namespace tasuki::cli {
namespace {

std::string TasksOf(const v1::ModelVersion& version) {
  if (version.tasks().empty()) return "none (a base model)";
  return absl::StrJoin(version.tasks(), ", ", [](std::string* out, const v1::Task& task) {
    absl::StrAppend(out, task.name());
  });
}

std::string OriginOf(const v1::ModelVersion& version) {
  return version.training_job().empty() ? "import" : ShortName(version.training_job());
}

std::string AdapterOf(const v1::ModelVersion& version) {
  if (!version.has_lora()) return "";
  return absl::StrCat("rank ", version.lora().rank(), ", alpha ", version.lora().alpha(), ", of ",
                      absl::StrJoin(version.lora().target_modules(), ", "));
}

std::string AliasesOf(const v1::ModelVersion& version) {
  return absl::StrJoin(version.aliases(), ", ", [](std::string* out, const std::string& alias) {
    absl::StrAppend(out, ShortName(alias));
  });
}

void PrintVersion(const v1::ModelVersion& version) {
  std::cout << Details(
      {{"name", version.name()},
       {"state", v1::ModelVersion::State_Name(version.state())},
       {"reason", version.state_reason()},
       {"tasks", TasksOf(version)},
       {"parameters", Count(version.parameter_count())},
       {"size", Bytes(version.size_bytes())},
       {"input tokens", version.max_input_tokens() > 0 ? Count(version.max_input_tokens()) : ""},
       {"made by", OriginOf(version)},
       {"made from", ShortName(version.base_model_version())},
       {"adapter", AdapterOf(version)},
       {"memory", version.memory_bytes() > 0 ? Bytes(version.memory_bytes()) : ""},
       {"shares weights", ShortName(version.shared_base_model_version())},
       {"aliases", AliasesOf(version)},
       {"last asked", version.has_last_use_time() ? DateTime(version.last_use_time()) : ""},
       {"created", DateTime(version.create_time())}});
  for (const std::string& table :
       {EvaluationTable(version.evaluations()), CalibrationTable(version.calibrations())}) {
    if (!table.empty()) std::cout << "\n" << table;
  }
}

absl::Status Answer(const Session& session, const absl::StatusOr<v1::ModelVersion>& version) {
  if (!version.ok()) return version.status();
  if (session.json()) return PrintJson(*version);
  PrintVersion(*version);
  return absl::OkStatus();
}

void AddImport(CLI::App& model, Session& session) {
  CLI::App* command =
      model.add_subcommand("import", "Imports a Hugging Face T5 directory as a new version")
          ->footer("Example: tasuki model import ./t5-base-japanese --model t5-base");
  auto directory = std::make_shared<std::string>();
  auto name = std::make_shared<std::string>();
  command
      ->add_option("DIRECTORY", *directory, "Holds config.json, model.safetensors and spiece.model")
      ->required();
  command->add_option("--model", *name, "Name of the model (default: that of the directory)")
      ->transform(Typed(ModelName));
  command->callback([=, &session] {
    std::string model_name = *name;
    if (model_name.empty()) {
      const auto path = (std::filesystem::absolute(*directory) / "").lexically_normal();
      const auto typed = ModelName(path.parent_path().filename().string());
      if (!typed.ok()) {
        throw CLI::ValidationError(
            absl::StrCat(typed.status().message(), "; name the model with --model"));
      }
      model_name = *typed;
    }
    session.action = [=, &session](Client& client) {
      const auto version =
          client.ImportModelVersion(model_name, *directory, ShowTransfer("importing"));
      const absl::Status status = Answer(session, version);
      if (status.ok() && !session.json() && !version->tasks().empty() &&
          version->state() == v1::ModelVersion::UNLOADED) {
        std::cout << "\nIt answers after: tasuki model load " << ShortName(version->name()) << "\n";
      }
      return status;
    };
  });
}

void AddExport(CLI::App& model, Session& session) {
  CLI::App* command =
      model.add_subcommand("export", "Writes the files of a version into a new directory")
          ->footer(
              "Examples: tasuki model export reviews@3 ./reviews-3\n"
              "          tasuki model export reviews@4 --adapter ./reviews-4-lora");
  auto name = std::make_shared<std::string>();
  auto directory = std::make_shared<std::string>();
  auto adapter = std::make_shared<bool>(false);
  command->add_option("MODEL", *name, "The version, an alias, or a model for its newest")
      ->required()
      ->transform(Typed(ServedName));
  command->add_option("DIRECTORY", *directory, "Must be new or empty")->required();
  command->add_flag("--adapter", *adapter,
                    "Only the adapter of a version trained with lora, for peft to put on its base");
  session.Bind(command, [=, &session](Client& client) -> absl::Status {
    const auto version = client.GetModelVersion(*name);
    if (!version.ok()) return version.status();
    const auto write = *adapter ? &Client::ExportAdapter : &Client::ExportModelVersion;
    const absl::Status status =
        (client.*write)(version->name(), *directory, ShowTransfer("exporting"));
    if (!status.ok()) return status;
    if (session.json()) return PrintJson(*version);
    if (*adapter) {
      std::cout << "the adapter of " << version->name() << " is in " << *directory
                << "; its base is " << ShortName(version->base_model_version()) << "\n";
      return absl::OkStatus();
    }
    std::cout << version->name() << " is in " << *directory << " (" << Bytes(version->size_bytes())
              << ")\n";
    return absl::OkStatus();
  });
}

absl::Status ListModels(Client& client, const Session& session) {
  const auto answer = client.ListModels();
  if (!answer.ok()) return answer.status();
  if (session.json()) {
    v1::ListModelsResponse all;
    for (const auto& row : *answer) *all.add_models() = row;
    return PrintJson(all);
  }
  Table table({"MODEL", "VERSIONS>", "NEWEST", "CREATED"});
  for (const auto& row : *answer) {
    table.Add({ShortName(row.name()), Count(row.version_count()), ShortName(row.latest_version()),
               DateTime(row.create_time())});
  }
  std::cout << table.ToString();
  return absl::OkStatus();
}

absl::Status ListVersions(Client& client, const Session& session, const std::string& model) {
  const auto answer = client.ListModelVersions(model);
  if (!answer.ok()) return answer.status();
  if (session.json()) {
    v1::ListModelVersionsResponse all;
    for (const auto& row : *answer) *all.add_model_versions() = row;
    return PrintJson(all);
  }
  Table table(
      {"VERSION", "STATE", "ALIASES", "TASKS", "PARAMETERS>", "SIZE>", "MADE BY", "CREATED"});
  for (const auto& row : *answer) {
    table.Add({ShortName(row.name()), v1::ModelVersion::State_Name(row.state()), AliasesOf(row),
               Shorten(TasksOf(row), 40), Count(row.parameter_count()), Bytes(row.size_bytes()),
               OriginOf(row), DateTime(row.create_time())});
  }
  std::cout << table.ToString();
  return absl::OkStatus();
}

void AddList(CLI::App& model, Session& session) {
  CLI::App* command =
      model.add_subcommand("list", "Lists the models, or the versions of one, newest first")
          ->footer("Examples: tasuki model list\n          tasuki model list reviews");
  auto name = std::make_shared<std::string>();
  command->add_option("MODEL", *name, "List its versions")->transform(Typed(ModelName));
  session.Bind(command, [name, &session](Client& client) {
    return name->empty() ? ListModels(client, session) : ListVersions(client, session, *name);
  });
}

// Get, load, unload: a method that answers the version.
void AddVerb(CLI::App& model, Session& session, const std::string& verb, const std::string& what,
             const std::string& which, absl::StatusOr<std::string> (*rule)(absl::string_view),
             absl::StatusOr<v1::ModelVersion> (Client::*method)(const std::string&)) {
  CLI::App* command = model.add_subcommand(verb, what)
                          ->footer(absl::StrCat("Example: tasuki model ", verb, " reviews@3"));
  auto name = std::make_shared<std::string>();
  command->add_option("MODEL", *name, which)->required()->transform(Typed(rule));
  session.Bind(command, [name, method, &session](Client& client) {
    return Answer(session, (client.*method)(*name));
  });
}

struct EvaluationRequest {
  std::string model;
  std::vector<std::string> tasks, datasets;
  std::string id, predictions;
  int max_input_tokens = 0;
  bool wait = false;
};

absl::Status Evaluate(Client& client, const Session& session, const EvaluationRequest& what) {
  v1::CreateTrainingJobRequest request;
  request.set_training_job_id(what.id);
  v1::EvaluationJob& work = *request.mutable_training_job()->mutable_evaluation();
  work.set_model_version(what.model);
  for (size_t i = 0; i < what.tasks.size(); ++i) {
    v1::Task& task = *work.add_tasks();
    task.set_name(what.tasks[i]);
    task.set_test_dataset(what.datasets[i]);
  }
  if (what.max_input_tokens > 0) work.set_max_input_tokens(what.max_input_tokens);
  work.set_write_predictions(!what.predictions.empty());
  const auto created = client.CreateTrainingJob(std::move(request));
  if (!created.ok()) return created.status();
  if (!what.wait && what.predictions.empty()) {
    if (session.json()) return PrintJson(*created);
    std::cout << created->name() << " is " << v1::TrainingJob::State_Name(created->state())
              << "\nWatch it with: tasuki job watch " << ShortName(created->name()) << "\n";
    return absl::OkStatus();
  }
  const auto ended = AwaitJob(client, session, *created);
  if (!ended.ok() || what.predictions.empty()) return ended.status();
  const absl::Status status =
      client.DownloadPredictions(ended->name(), what.predictions, ShowTransfer("downloading"));
  if (status.ok() && !session.json()) {
    std::cout << "\nthe predictions are in " << what.predictions << "\n";
  }
  return status;
}

void AddEvaluate(CLI::App& model, Session& session) {
  CLI::App* command =
      model.add_subcommand("evaluate", "Evaluates a version on labelled datasets, as a job")
          ->footer(
              "Labels and prefix are those of the version's task. A version without the task, or "
              "other labels:\n"
              "describe the job in a file with evaluation: and use tasuki job submit.\n"
              "Example: tasuki model evaluate reviews@3 --task sentiment --dataset "
              "d-0123456789abcdef --wait");
  auto what = std::make_shared<EvaluationRequest>();
  command->add_option("MODEL", what->model, "The version, or a model for its newest")
      ->required()
      ->transform(Typed(ModelOrVersionName));
  command->add_option("--task", what->tasks, "A task; repeatable, each with its --dataset")
      ->required()
      ->allow_extra_args(false);
  command->add_option("--dataset", what->datasets, "The rows for the task before it")
      ->required()
      ->allow_extra_args(false)
      ->transform(Typed(DatasetName));
  command
      ->add_option("--max-input-tokens", what->max_input_tokens,
                   "Tokens of an input (default: the version's)")
      ->check(CLI::Range(8, 4096));
  command->add_option("--id", what->id, "Id of the job (default: made by the server)");
  command->add_option("--predictions", what->predictions,
                      "Wait, and write every answer here as JSON Lines");
  command->add_flag("--wait", what->wait, "Watch the job; fail unless it succeeds");
  command->callback([what, &session] {
    if (what->tasks.size() != what->datasets.size()) {
      throw CLI::ValidationError("give one --dataset for each --task");
    }
    session.action = [what, &session](Client& client) { return Evaluate(client, session, *what); };
  });
}

void AddDelete(CLI::App& model, Session& session) {
  CLI::App* command = model.add_subcommand("delete", "Deletes a version and its files")
                          ->footer("Example: tasuki model delete reviews@3");
  auto name = std::make_shared<std::string>();
  command->add_option("MODEL", *name, "The version")->required()->transform(Typed(VersionName));
  session.Bind(command, [name, &session](Client& client) -> absl::Status {
    if (absl::Status status = client.DeleteModelVersion(*name); !status.ok()) return status;
    if (session.json()) return PrintJson(google::protobuf::Empty());
    std::cout << "deleted " << *name << "\n";
    return absl::OkStatus();
  });
}

}  // namespace

void AddModelCommands(CLI::App& app, Session& session) {
  CLI::App* model = app.add_subcommand("model", "Models and their versions")->require_subcommand(1);
  AddImport(*model, session);
  AddExport(*model, session);
  AddList(*model, session);
  AddVerb(*model, session, "get", "Shows a version",
          "The version, an alias, or a model for its newest", ServedName, &Client::GetModelVersion);
  AddVerb(*model, session, "load", "Loads a version for classification",
          "The version, or a model for its newest", ModelOrVersionName, &Client::LoadModelVersion);
  AddVerb(*model, session, "unload", "Takes a version out of service", "The version", VersionName,
          &Client::UnloadModelVersion);
  AddEvaluate(*model, session);
  AddDelete(*model, session);
}

}  // namespace tasuki::cli
