// Who may include whom: the rules of docs/design.md, checked on every source file.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace {

using testing::ElementsAre;
using testing::IsEmpty;

using Strings = std::vector<std::string>;

// For each folder, the folders whose headers its files may include beside its own. A folder that is
// not here has no rule, which is a fault too.
const std::map<std::string, Strings> kMayInclude = {
    {"model/errors", {"tasuki/v1"}},
    {"model/files", {"tasuki/v1", "tasuki/internal", "model/errors"}},
    {"model/text", {"tasuki/v1", "tasuki/internal", "model/errors", "model/files"}},
    {"model/tokenizer_trainer", {"model/errors", "model/text"}},
    {"model/recipe", {"tasuki/v1", "tasuki/internal", "model/errors"}},
    {"model/t5",
     {"tasuki/v1", "tasuki/internal", "model/errors", "model/files", "model/text", "model/recipe"}},
    {"model/cuda", {"model/t5"}},
    {"model/training",
     {"tasuki/v1", "tasuki/internal", "model/errors", "model/files", "model/text", "model/recipe",
      "model/t5"}},
    {"server/metrics", {}},
    {"server/log", {"server/metrics"}},
    {"server/store", {"tasuki/v1", "tasuki/internal", "model", "server/metrics"}},
    {"server/datasets", {"tasuki/v1", "model", "server/metrics", "server/store"}},
    {"server/jobs", {"tasuki/v1", "tasuki/internal", "model", "server/metrics", "server/store"}},
    {"server/serving", {"tasuki/v1", "tasuki/internal", "model", "server/metrics", "server/store"}},
    {"server/rpc",
     {"tasuki/v1", "inference", "model", "server/metrics", "server/log", "server/store",
      "server/datasets", "server/jobs", "server/serving"}},
    {"server",
     {"tasuki/v1", "model", "server/metrics", "server/log", "server/store", "server/datasets",
      "server/jobs", "server/serving", "server/rpc"}},
    {"server/trainer", {"tasuki/v1", "tasuki/internal", "model"}},
    {"client", {"tasuki/v1", "model/errors"}},
    {"client/cli", {"tasuki/v1", "model/errors", "client"}},
    {"client/examples", {"client"}},
    {"demo", {}},
};

// Libraries that only these folders may name.
struct LibraryRule {
  std::string library;
  Strings headers;  // beginnings, or ends where they begin with '*'
  Strings folders;
};
const std::vector<LibraryRule> kLibraries = {
    {"LibTorch",
     {"torch/", "ATen/", "c10/", "caffe2/"},
     {"model/t5", "model/cuda", "model/training"}},
    {"gRPC", {"grpc/", "grpcpp/", "*.grpc.pb.h"}, {"server/rpc", "server", "client"}},
    {"SQL", {"soci/", "sqlite3.h", "libpq"}, {"server/store"}},
    {"Prometheus", {"prometheus/"}, {"server/metrics"}},
};

std::string FolderOf(const std::string& path) { return path.substr(0, path.rfind('/')); }

bool Contains(const Strings& strings, const std::string& string) {
  return std::find(strings.begin(), strings.end(), string) != strings.end();
}

bool IsOfLibrary(const LibraryRule& rule, const std::string& header) {
  return std::any_of(rule.headers.begin(), rule.headers.end(), [&](const std::string& pattern) {
    if (pattern[0] != '*') return header.rfind(pattern, 0) == 0;
    const std::string end = pattern.substr(1);
    return header.size() > end.size() && header.substr(header.size() - end.size()) == end;
  });
}

Strings IncludesOf(const std::string& text) {
  static const std::regex kInclude(R"((?:^|\n)[ \t]*#[ \t]*include[ \t]*["<]([^">]+)[">])");
  Strings includes;
  for (std::sregex_iterator match(text.begin(), text.end(), kInclude), end; match != end; ++match) {
    includes.push_back((*match)[1]);
  }
  return includes;
}

// What the file at `path` includes against the rules.
Strings FaultsOf(const std::string& path, const std::string& text) {
  const std::string folder = FolderOf(path);
  const auto rule = kMayInclude.find(folder);
  if (rule == kMayInclude.end()) return {path + ": no rule says what " + folder + " may include"};
  static const std::regex kOurs("(model|server|client|demo|tests|tasuki|inference)/.*");
  Strings faults;
  for (const std::string& header : IncludesOf(text)) {
    if (std::regex_match(header, kOurs)) {
      const std::string from = FolderOf(header);
      // "model" stands for all its rooms.
      const bool of_model = from.rfind("model/", 0) == 0 && Contains(rule->second, "model");
      if (from != folder && !of_model && !Contains(rule->second, from)) {
        faults.push_back(path + ": " + folder + " must not include " + header);
      }
    }
    for (const LibraryRule& library : kLibraries) {
      if (IsOfLibrary(library, header) && !Contains(library.folders, folder)) {
        faults.push_back(path + ": " + library.library + " (" + header + ") has no place here");
      }
    }
  }
  return faults;
}

// Path from the root of the repository → text, of every source file under a rule.
const std::map<std::string, std::string>& Sources() {
  static const auto* const sources = [] {
    auto* files = new std::map<std::string, std::string>;
    const std::filesystem::path root(TASUKI_SOURCE_DIR);
    for (const char* top : {"model", "server", "client", "demo"}) {
      for (const auto& entry : std::filesystem::recursive_directory_iterator(root / top)) {
        const std::string extension = entry.path().extension();
        if (extension != ".cc" && extension != ".h") continue;
        std::ostringstream text;
        text << std::ifstream(entry.path()).rdbuf();
        (*files)[entry.path().lexically_relative(root).string()] = text.str();
      }
    }
    return files;
  }();
  return *sources;
}

TEST(Layering, EveryFileIncludesOnlyWhatItsRoomMay) {
  EXPECT_GT(Sources().size(), 100);
  for (const auto& [path, text] : Sources()) EXPECT_THAT(FaultsOf(path, text), IsEmpty());
}

TEST(Layering, NoFileOutsideModelSeesTorchThroughAnother) {
  const LibraryRule& torch = kLibraries[0];
  for (const auto& [path, text] : Sources()) {
    if (Contains(torch.folders, FolderOf(path))) continue;
    std::set<std::string> seen;
    Strings open = IncludesOf(text);
    while (!open.empty()) {
      const std::string header = open.back();
      open.pop_back();
      EXPECT_FALSE(IsOfLibrary(torch, header)) << path << " comes to see " << header;
      if (!seen.insert(header).second || Sources().count(header) == 0) continue;
      for (const std::string& next : IncludesOf(Sources().at(header))) open.push_back(next);
    }
  }
}

TEST(Layering, EveryIncludedFileOfOursIsThere) {
  for (const auto& [path, text] : Sources()) {
    for (const std::string& header : IncludesOf(text)) {
      static const std::regex kChecked("(model|server|client)/.*");
      if (!std::regex_match(header, kChecked)) continue;
      EXPECT_EQ(Sources().count(header), 1) << path << " includes " << header;
    }
  }
}

TEST(LayeringRules, RefuseWhatTheyShould) {
  EXPECT_THAT(FaultsOf("server/jobs/a.cc", "#include \"server/serving/batcher.h\"\n"),
              ElementsAre("server/jobs/a.cc: server/jobs must not include "
                          "server/serving/batcher.h"));
  EXPECT_THAT(FaultsOf("model/text/a.cc", "int a;\n  #  include <torch/torch.h>\n"),
              ElementsAre("model/text/a.cc: LibTorch (torch/torch.h) has no place here"));
  EXPECT_EQ(FaultsOf("server/store/a.h", "#include \"server/rpc/status.h\"").size(), 1);
  EXPECT_EQ(FaultsOf("server/jobs/a.h", "#include <soci/soci.h>").size(), 1);
  EXPECT_EQ(FaultsOf("server/jobs/a.h", "#include \"tasuki/v1/training.grpc.pb.h\"").size(), 1);
  EXPECT_EQ(FaultsOf("server/trainer/a.cc", "#include \"server/store/store.h\"").size(), 1);
  EXPECT_EQ(FaultsOf("client/cli/a.cc", "#include \"model/recipe/recipe.h\"").size(), 1);
  EXPECT_EQ(FaultsOf("client/a.cc", "#include \"tasuki/internal/files.pb.h\"").size(), 1);
  EXPECT_EQ(FaultsOf("server/new_room/a.cc", "").size(), 1);
}

TEST(LayeringRules, AllowWhatTheyShould) {
  EXPECT_THAT(FaultsOf("server/jobs/a.cc",
                       "#include <vector>\n#include \"server/jobs/jobs.h\"\n"
                       "#include \"model/text/tokenizer.h\"\n"),
              IsEmpty());
  EXPECT_THAT(FaultsOf("model/t5/t5.h", "#include <ATen/ATen.h>\n"), IsEmpty());
  EXPECT_THAT(FaultsOf("server/server.cc", "#include \"server/jobs/jobs.h\"\n"), IsEmpty());
}

}  // namespace
