#include <iostream>
#include <memory>
#include <string>

#include "client/cli/commands.h"
#include "client/cli/names.h"
#include "client/cli/table.h"
#include "client/cli/text.h"

namespace tasuki::cli {
namespace {

std::string CauseOf(const v1::ModelAlias::Change& change) {
  switch (change.cause()) {
    case v1::ModelAlias::Change::ROLLBACK:
      return "rolled back";
    case v1::ModelAlias::Change::JOB:
      return absl::StrCat("job ", ShortName(change.training_job()));
    default:
      return "set";
  }
}

absl::Status Answer(const Session& session, const absl::StatusOr<v1::ModelAlias>& alias) {
  if (!alias.ok()) return alias.status();
  if (session.json()) return PrintJson(*alias);
  std::cout << Details({{"name", alias->name()},
                        {"version", ShortName(alias->model_version())},
                        {"shadow", ShortName(alias->shadow_model_version())},
                        {"changed", DateTime(alias->update_time())}});
  Table table({"VERSION", "SINCE", "BY"});
  for (const auto& change : alias->history()) {
    table.Add({ShortName(change.model_version()), DateTime(change.create_time()), CauseOf(change)});
  }
  std::cout << "\n" << table.ToString();
  return absl::OkStatus();
}

// The one or two names that the commands take.
struct Names {
  std::string alias, version;
};

std::shared_ptr<Names> AddAlias(CLI::App* command) {
  auto names = std::make_shared<Names>();
  command->add_option("ALIAS", names->alias, "MODEL@ALIAS, such as reviews@production")
      ->required()
      ->transform(Typed(AliasName));
  return names;
}

void AddSet(CLI::App& alias, Session& session) {
  CLI::App* command =
      alias.add_subcommand("set", "Points an alias to a version, once that is loaded and warm")
          ->footer("Example: tasuki alias set reviews@production reviews@3");
  auto names = AddAlias(command);
  command->add_option("VERSION", names->version, "The version, of the same model")
      ->required()
      ->transform(Typed(VersionName));
  session.Bind(command, [names, &session](Client& client) {
    return Answer(session, client.SetModelAlias(names->alias, names->version));
  });
}

void AddRollback(CLI::App& alias, Session& session) {
  CLI::App* command =
      alias
          .add_subcommand("rollback", "Points an alias back to the version before the current one")
          ->footer(
              "A second rollback undoes the first. To go further back: tasuki alias set.\n"
              "Example: tasuki alias rollback reviews@production");
  auto names = AddAlias(command);
  session.Bind(command, [names, &session](Client& client) {
    return Answer(session, client.RollbackModelAlias(names->alias));
  });
}

void AddShadow(CLI::App& alias, Session& session) {
  CLI::App* command =
      alias
          .add_subcommand("shadow",
                          "Has a second version answer beside an alias; differences are counted")
          ->footer(
              "Its answers are never returned: see tasuki_shadow_predictions_total.\n"
              "Examples: tasuki alias shadow reviews@production reviews@4\n"
              "          tasuki alias shadow reviews@production --off");
  auto names = AddAlias(command);
  auto off = std::make_shared<bool>(false);
  CLI::Option* version = command->add_option("VERSION", names->version, "The second version")
                             ->transform(Typed(VersionName));
  command->add_flag("--off", *off, "Ends it")->excludes(version);
  command->callback([=, &session] {
    if (!*off && names->version.empty()) {
      throw CLI::ValidationError("name a VERSION, or end the shadow with --off");
    }
    session.action = [names, &session](Client& client) {
      return Answer(session, client.ShadowModelAlias(names->alias, names->version));
    };
  });
}

void AddGet(CLI::App& alias, Session& session) {
  CLI::App* command = alias.add_subcommand("get", "Shows an alias and its history")
                          ->footer("Example: tasuki alias get reviews@production");
  auto names = AddAlias(command);
  session.Bind(command, [names, &session](Client& client) {
    return Answer(session, client.GetModelAlias(names->alias));
  });
}

void AddList(CLI::App& alias, Session& session) {
  CLI::App* command = alias.add_subcommand("list", "Lists the aliases of a model")
                          ->footer("Example: tasuki alias list reviews");
  auto model = std::make_shared<std::string>();
  command->add_option("MODEL", *model, "The model")->required()->transform(Typed(ModelName));
  session.Bind(command, [model, &session](Client& client) -> absl::Status {
    const auto aliases = client.ListModelAliases(*model);
    if (!aliases.ok()) return aliases.status();
    if (session.json()) {
      v1::ListModelAliasesResponse all;
      for (const auto& row : *aliases) *all.add_model_aliases() = row;
      return PrintJson(all);
    }
    Table table({"ALIAS", "VERSION", "SHADOW", "CHANGED"});
    for (const auto& row : *aliases) {
      table.Add({ShortName(row.name()), ShortName(row.model_version()),
                 ShortName(row.shadow_model_version()), DateTime(row.update_time())});
    }
    std::cout << table.ToString();
    return absl::OkStatus();
  });
}

void AddDelete(CLI::App& alias, Session& session) {
  CLI::App* command = alias.add_subcommand("delete", "Deletes an alias; its versions stay loaded")
                          ->footer("Example: tasuki alias delete reviews@canary");
  auto names = AddAlias(command);
  session.Bind(command, [names, &session](Client& client) -> absl::Status {
    if (absl::Status status = client.DeleteModelAlias(names->alias); !status.ok()) return status;
    if (session.json()) return PrintJson(google::protobuf::Empty());
    std::cout << "deleted " << names->alias << "\n";
    return absl::OkStatus();
  });
}

}  // namespace

void AddAliasCommands(CLI::App& app, Session& session) {
  CLI::App* alias = app.add_subcommand("alias", "Names for the versions that are to answer")
                        ->require_subcommand(1);
  AddSet(*alias, session);
  AddRollback(*alias, session);
  AddShadow(*alias, session);
  AddGet(*alias, session);
  AddList(*alias, session);
  AddDelete(*alias, session);
}

}  // namespace tasuki::cli
