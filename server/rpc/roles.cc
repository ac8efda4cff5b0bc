#include "server/rpc/roles.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace tasuki {
namespace {

constexpr std::array kNames = {"read", "classify", "train", "admin"};

constexpr Roles kEverybody = Roles::Everybody();
// What an application has to know, and anybody who works with the server.
constexpr Roles kAnyToken = Roles::Of(Role::kRead, Role::kClassify, Role::kTrain, Role::kAdmin);
// What shows jobs, data or weights.
constexpr Roles kReaders = Roles::Of(Role::kRead, Role::kTrain, Role::kAdmin);
constexpr Roles kClassifiers = Roles::Of(Role::kClassify, Role::kTrain, Role::kAdmin);
// What adds or ends jobs, adds data or models, or takes the machine's time.
constexpr Roles kTrainers = Roles::Of(Role::kTrain, Role::kAdmin);
// What changes what others are served.
constexpr Roles kAdmins = Roles::Of(Role::kAdmin);

struct Row {
  absl::string_view method;
  Roles roles;
};

constexpr Row kRows[] = {
    {"/grpc.health.v1.Health/Check", kEverybody},
    {"/grpc.health.v1.Health/Watch", kEverybody},
    {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", kAnyToken},

    // Live and ready are health by another name.
    {"/inference.GRPCInferenceService/ServerLive", kEverybody},
    {"/inference.GRPCInferenceService/ServerReady", kEverybody},
    {"/inference.GRPCInferenceService/ModelReady", kAnyToken},
    {"/inference.GRPCInferenceService/ServerMetadata", kAnyToken},
    {"/inference.GRPCInferenceService/ModelMetadata", kAnyToken},
    {"/inference.GRPCInferenceService/ModelConfig", kAnyToken},
    {"/inference.GRPCInferenceService/ModelStatistics", kAnyToken},
    {"/inference.GRPCInferenceService/ModelInfer", kClassifiers},
    {"/inference.GRPCInferenceService/ModelStreamInfer", kClassifiers},
    {"/inference.GRPCInferenceService/RepositoryIndex", kAnyToken},
    {"/inference.GRPCInferenceService/RepositoryModelLoad", kAdmins},
    {"/inference.GRPCInferenceService/RepositoryModelUnload", kAdmins},
    {"/inference.GRPCInferenceService/SystemSharedMemoryStatus", kAdmins},
    {"/inference.GRPCInferenceService/SystemSharedMemoryRegister", kAdmins},
    {"/inference.GRPCInferenceService/SystemSharedMemoryUnregister", kAdmins},
    {"/inference.GRPCInferenceService/CudaSharedMemoryStatus", kAdmins},
    {"/inference.GRPCInferenceService/CudaSharedMemoryRegister", kAdmins},
    {"/inference.GRPCInferenceService/CudaSharedMemoryUnregister", kAdmins},
    {"/inference.GRPCInferenceService/TraceSetting", kAdmins},
    {"/inference.GRPCInferenceService/LogSettings", kAdmins},

    {"/tasuki.v1.ClassificationService/Classify", kClassifiers},
    {"/tasuki.v1.ClassificationService/StreamClassify", kClassifiers},

    {"/tasuki.v1.DatasetService/UploadDataset", kTrainers},
    {"/tasuki.v1.DatasetService/CheckDataset", kTrainers},
    {"/tasuki.v1.DatasetService/GetDataset", kReaders},
    {"/tasuki.v1.DatasetService/ListDatasets", kReaders},
    {"/tasuki.v1.DatasetService/InspectDataset", kReaders},
    {"/tasuki.v1.DatasetService/DeleteDataset", kTrainers},

    {"/tasuki.v1.ModelService/ImportModelVersion", kTrainers},
    {"/tasuki.v1.ModelService/ExportModelVersion", kReaders},
    {"/tasuki.v1.ModelService/GetModel", kAnyToken},
    {"/tasuki.v1.ModelService/ListModels", kAnyToken},
    {"/tasuki.v1.ModelService/GetModelVersion", kAnyToken},
    {"/tasuki.v1.ModelService/ListModelVersions", kAnyToken},
    {"/tasuki.v1.ModelService/LoadModelVersion", kAdmins},
    {"/tasuki.v1.ModelService/UnloadModelVersion", kAdmins},
    {"/tasuki.v1.ModelService/DeleteModelVersion", kAdmins},
    {"/tasuki.v1.ModelService/SetModelAlias", kAdmins},
    {"/tasuki.v1.ModelService/RollbackModelAlias", kAdmins},
    {"/tasuki.v1.ModelService/ShadowModelAlias", kAdmins},
    {"/tasuki.v1.ModelService/GetModelAlias", kAnyToken},
    {"/tasuki.v1.ModelService/ListModelAliases", kAnyToken},
    {"/tasuki.v1.ModelService/DeleteModelAlias", kAdmins},

    {"/tasuki.v1.ServerService/GetServerInfo", kAnyToken},
    {"/tasuki.v1.ServerService/SetLogLevel", kAdmins},

    {"/tasuki.v1.TrainingService/CreateTrainingJob", kTrainers},
    {"/tasuki.v1.TrainingService/GetTrainingJob", kReaders},
    {"/tasuki.v1.TrainingService/ListTrainingJobs", kReaders},
    {"/tasuki.v1.TrainingService/WatchTrainingJob", kReaders},
    {"/tasuki.v1.TrainingService/CancelTrainingJob", kTrainers},
    {"/tasuki.v1.TrainingService/PauseTrainingJob", kTrainers},
    {"/tasuki.v1.TrainingService/ResumeTrainingJob", kTrainers},
    {"/tasuki.v1.TrainingService/FinishTrainingJob", kTrainers},
    {"/tasuki.v1.TrainingService/RetryTrainingJob", kTrainers},
    {"/tasuki.v1.TrainingService/GetTrainingJobLog", kReaders},
    {"/tasuki.v1.TrainingService/DeleteTrainingJob", kTrainers},
    {"/tasuki.v1.TrainingService/EstimateTrainingJob", kTrainers},
    {"/tasuki.v1.TrainingService/DownloadPredictions", kReaders},
};

}  // namespace

const char* NameOf(Role role) { return kNames[static_cast<size_t>(role)]; }

std::optional<Role> RoleNamed(absl::string_view name) {
  const auto found = std::find(kNames.begin(), kNames.end(), name);
  if (found == kNames.end()) return std::nullopt;
  return static_cast<Role>(found - kNames.begin());
}

std::string Roles::ToString() const {
  std::vector<absl::string_view> names;
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (Has(static_cast<Role>(i))) names.emplace_back(kNames[i]);
  }
  if (names.size() < 2) return names.empty() ? "nobody" : std::string(names[0]);
  const absl::string_view last = names.back();
  names.pop_back();
  return absl::StrCat(absl::StrJoin(names, ", "), " or ", last);
}

Roles RolesOf(absl::string_view method) {
  const auto row = std::find_if(std::begin(kRows), std::end(kRows),
                                [&](const Row& each) { return each.method == method; });
  return row != std::end(kRows) ? row->roles : Roles();
}

}  // namespace tasuki
