// Read TrainOrThrow first: it is what Train does. Attempt::TakeSteps is the training.
#include "model/training/training.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/version.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "model/files/model_directory.h"
#include "model/files/sha256.h"
#include "model/t5/device.h"
#include "model/t5/graphs.h"
#include "model/training/checkpoint.h"
#include "model/training/numerics.h"
#include "model/training/optimizer.h"
#include "model/training/progress.h"
#include "model/training/random.h"
#include "model/training/result.h"
#include "model/training/version_evaluation.h"
#include "model/training/work.h"

namespace tasuki {
namespace {

using Severity = v1::TrainingJobEvent::Message;

constexpr int64_t kLeastTokensAtOnce = 64;  // fewer would not save memory: one example is more

std::string WorkSha256(const v1::TrainingJob& job) {
  const google::protobuf::Message& work =
      job.has_pretraining() ? static_cast<const google::protobuf::Message&>(job.pretraining())
                            : job.fine_tuning();
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    work.SerializeToCodedStream(&coded);
  }
  return Sha256Of(bytes);
}

absl::Status NonFinite(int64_t step, const std::string& what, const std::string& where) {
  return MakeError(
      absl::StatusCode::kOutOfRange, v1::NON_FINITE_LOSS,
      absl::StrCat("step ", step, ": ", what, " is not a finite number", where,
                   "; a smaller learning_rate, more warmup_steps or gradient clipping may help"),
      {{"step", absl::StrCat(step)}});
}

bool AllFinite(const WeightMap& weights) {
  at::NoGradGuard no_grad;
  // A sum is not finite if a term is not; finite weights do not overflow it.
  return std::all_of(weights.begin(), weights.end(), [](const auto& weight) {
    return std::isfinite(weight.second.sum().template item<double>());
  });
}

absl::Status OutOfMemory() {
  return MakeError(absl::StatusCode::kResourceExhausted, v1::OUT_OF_MEMORY,
                   "the training does not fit into memory; a smaller batch_size or "
                   "max_input_tokens may help");
}

// Whether the training ends with `step` though steps are left; `state` remembers why.
bool EndsEarly(const v1::Recipe& recipe, int64_t step, const StopSignal& stop,
               internal::TrainingState& state) {
  if (step == 0) return false;  // the base is nothing to publish
  if (!state.ended_by().empty()) return true;
  const double limit = static_cast<double>(recipe.time_limit().seconds());
  if (stop.request.load() == StopSignal::kFinish) {
    state.set_ended_by("it was asked to finish");
  } else if (recipe.has_time_limit() && state.training_seconds() >= limit) {
    state.set_ended_by(absl::StrCat("its time limit of ", limit, " s is over"));
  }
  return !state.ended_by().empty();
}

// Counts the evaluations without a gain.
void NoteForEarlyStopping(const v1::Recipe& recipe, double figure, internal::TrainingState& state) {
  const v1::Recipe::EarlyStopping& early = recipe.early_stopping();
  if (state.best_step() == 0 || figure > state.gain_figure() + early.min_delta()) {
    state.set_gain_figure(figure);
    state.set_evaluations_without_gain(0);
    return;
  }
  state.set_evaluations_without_gain(state.evaluations_without_gain() + 1);
  if (state.evaluations_without_gain() < early.patience() || !recipe.has_early_stopping()) return;
  state.set_ended_by(absl::StrCat(early.patience(), " evaluations brought no gain"));
}

// The outcome of an earlier attempt that left its result and died before it could say so.
absl::StatusOr<std::optional<TrainingOutcome>> FinishedBefore(
    const std::string& result, const std::optional<internal::CheckpointManifest>& checkpoint) {
  absl::StatusOr<internal::ModelManifest> manifest = ReadManifest(result);
  if (absl::IsNotFound(manifest.status()) || !checkpoint.has_value()) return std::nullopt;
  absl::Status status = manifest.status();
  if (status.ok())
    status = CheckFiles(result, {manifest->files().begin(), manifest->files().end()});
  if (absl::IsDataLoss(status)) return std::nullopt;  // it is made again
  if (!status.ok()) return status;
  const internal::TrainingState& state = checkpoint->state();
  return TrainingOutcome{
      .finished = true,
      .step = checkpoint->step(),
      .best_step = state.best_step() > 0 ? state.best_step() : checkpoint->step(),
      .evaluations = {manifest->evaluations().begin(), manifest->evaluations().end()},
      .calibrations = {manifest->calibrations().begin(), manifest->calibrations().end()}};
}

// Where a job stands.
struct Standing {
  int64_t step = 0;  // steps done
  internal::TrainingState state;
};

// Where the checkpoint says, or at the beginning. Threads and kernels are the process's from here
// on; what of the numerics cannot be kept is told.
Standing BeginOrResume(const std::optional<internal::CheckpointManifest>& checkpoint,
                       const TrainingOptions& options, TrainingObserver& observer) {
  const auto warn = [&](const std::string& text) {
    observer.OnMessage(Severity::WARNING,
                       absl::StrCat(text, ": its weights may differ in the last digits."));
  };
  Standing standing;
  internal::TrainingState& state = standing.state;
  state.set_threads(options.threads);
  state.set_kernels(options.kernels);
  state.set_tokens_at_once(TokensAtOnce(options.device));
  state.set_libtorch_version(TORCH_VERSION);
  const std::string device = options.device == "cpu" ? "" : "cuda";
  state.set_device(device);
  if (checkpoint.has_value()) {
    standing.step = checkpoint->step();
    state = checkpoint->state();
    if (state.tokens_at_once() == 0) state.set_tokens_at_once(kTokensAtOnce);
    if (state.libtorch_version() != TORCH_VERSION) {
      warn(absl::StrCat("The job began with LibTorch ", state.libtorch_version(),
                        " and goes on with ", TORCH_VERSION));
    }
  }
  if (state.device() != device) {
    warn(absl::StrCat("The job began on another device and goes on on ", options.device));
  }
  const std::string kernels = SetNumerics(state.threads(), state.kernels());
  if (kernels != state.kernels() && checkpoint.has_value() && !state.kernels().empty()) {
    warn(absl::StrCat("The job began with kernels ", state.kernels(),
                      ", which this CPU has not, and goes on with ", kernels));
  }
  state.set_kernels(kernels);
  return standing;
}

// An attempt whose data and first weights are there: Prepare, TakeSteps, Publish, in this order.
// TakeSteps and Publish end with CANCELLED where they stopped as they were told.
class Attempt {
 public:
  Attempt(Work& work, const T5& model, const std::string& device, const Checkpoints& checkpoints,
          Standing standing, const StopSignal& stop, TrainingObserver& observer,
          ProgressReporter& progress)
      : work_(work),
        recipe_(work.recipe()),
        total_steps_(TotalSteps(work)),
        model_(model),
        optimizer_(Optimizer::Create(recipe_, model.trained())),
        graphs_(at::Device(device)),
        checkpoints_(checkpoints),
        stop_(stop),
        observer_(observer),
        progress_(progress),
        step_(standing.step),
        saved_step_(standing.step),
        state_(std::move(standing.state)) {}

  int64_t step() const { return step_; }

  // Weights and optimizer as the checkpoint has them, and no more tokens at once than fit into
  // memory. `out_of_memory`: of that an earlier attempt died.
  absl::Status Prepare(bool out_of_memory) {
    if (step_ > 0) {
      absl::Status read = checkpoints_.ReadWeights(step_, model_.trained());
      if (read.ok()) read = checkpoints_.ReadOptimizer(step_, optimizer_->state());
      if (!read.ok()) return read;
      observer_.OnMessage(Severity::INFO,
                          absl::StrCat("Goes on from the checkpoint of step ", step_, "."));
    }
    // What goes through the model at once is part of the numerics: when it changes, a checkpoint
    // has to know before the next step; of a death by it, even before it is tried.
    if (out_of_memory && TakeLessAtOnce()) {
      if (absl::Status saved = Save(); !saved.ok()) return saved;
    }
    const int64_t at_once = state_.tokens_at_once();
    progress_.Enter(v1::Progress::PREPARING);
    if (step_ < total_steps_ && !FitLongestBatch()) return OutOfMemory();
    if (state_.tokens_at_once() != at_once) saved_step_ = kNotSaved;
    return absl::OkStatus();
  }

  // The training, from the step where it stands to its end.
  absl::Status TakeSteps() {
    const int64_t evaluate_every = StepsPerEvaluation(work_);
    const int64_t checkpoint_every = recipe_.checkpoint_every_steps();
    progress_.SetWork(step_, total_steps_, work_.steps_per_epoch());
    const absl::Time begin = absl::Now();
    const double seconds_before = state_.training_seconds();
    while (true) {
      state_.set_training_seconds(seconds_before + absl::ToDoubleSeconds(absl::Now() - begin));
      const bool over = step_ == total_steps_ || EndsEarly(recipe_, step_, stop_, state_);
      const bool evaluate =
          step_ > state_.evaluated_step() && (over || step_ % evaluate_every == 0);
      if (evaluate) {
        absl::Status judged = Judge();
        if (!judged.ok() && !absl::IsCancelled(judged)) return judged;
      }
      const bool last = over || !state_.ended_by().empty();

      const int request = stop_.request.load();
      if (request == StopSignal::kAbandon) return Stopped();
      const bool save = last || request == StopSignal::kStop || saved_step_ == kNotSaved ||
                        (checkpoint_every > 0 && step_ % checkpoint_every == 0);
      if (evaluate || (save && step_ > saved_step_)) {
        if (absl::Status saved = Save(); !saved.ok()) return saved;
      }
      if (stop_.requested() && step_ == saved_step_) return Stopped();
      if (last) break;

      progress_.Enter(v1::Progress::TRAINING);
      auto taken = TakeStep();
      if (ReasonOf(taken.status()) == v1::OUT_OF_MEMORY && TakeLessAtOnce()) {
        saved_step_ = kNotSaved;
        continue;
      }
      if (!taken.ok()) {
        // What went before the bad step is kept for those who look into it, and for a retry.
        if (step_ > saved_step_) Save().IgnoreError();
        return taken.status();
      }
      ++step_;
      progress_.Add(*taken);
    }
    if (step_ < total_steps_) {
      observer_.OnMessage(Severity::INFO,
                          absl::StrCat("The training ends after step ", step_, " of ", total_steps_,
                                       ": ", state_.ended_by(), "."));
    }
    return absl::OkStatus();
  }

  // The best weights, which take the place of the last ones, judged and written to
  // `places.result_directory`.
  absl::StatusOr<TrainingOutcome> Publish(const TrainingPlaces& places) {
    ClearGradients(model_.trained());
    TrainingOutcome outcome{.finished = true, .step = step_, .best_step = step_};
    if (state_.best_step() != 0 && state_.best_step() != step_) {
      outcome.best_step = state_.best_step();
      absl::Status read = checkpoints_.ReadWeights(outcome.best_step, model_.trained());
      if (!read.ok()) return read;
    }
    progress_.Enter(v1::Progress::EVALUATING);
    auto judgement = work_.EvaluateFinally(model_, stop_, observer_, progress_);
    if (!judgement.ok()) return judgement.status();
    absl::Status status = Announce(judgement->evaluations, outcome.best_step);
    if (!status.ok()) return status;

    progress_.Enter(v1::Progress::PUBLISHING);
    internal::ModelManifest manifest = work_.Manifest();
    manifest.set_training_job(places.training_job);
    manifest.mutable_evaluations()->Assign(judgement->evaluations.begin(),
                                           judgement->evaluations.end());
    manifest.mutable_calibrations()->Assign(judgement->calibrations.begin(),
                                            judgement->calibrations.end());
    status = RemoveAll(places.result_directory);
    if (status.ok()) {
      status = WriteResult(places.result_directory, model_, work_.tokenizer_directory(),
                           std::move(manifest));
    }
    if (!status.ok()) return status;
    outcome.evaluations = std::move(judgement->evaluations);
    outcome.calibrations = std::move(judgement->calibrations);
    return outcome;
  }

 private:
  static constexpr int64_t kNotSaved = -1;

  static absl::Status Stopped() { return absl::CancelledError("stopped"); }

  // The loss, with its gradients in the weights; nullopt if there is too little memory for it.
  std::optional<double> LossOf(const Batch& batch) {
    ClearGradients(model_.trained());
    try {
      return Backward(model_, batch,
                      {.dropout = DropoutOf(work_),
                       .label_smoothing = recipe_.label_smoothing(),
                       .tokens_at_once = state_.tokens_at_once(),
                       .graphs = &graphs_});
    } catch (const std::exception& error) {
      if (!SaysOutOfMemory(error)) throw;
    }
    graphs_.Clear();
    ClearGradients(model_.trained());
    return std::nullopt;
  }

  // Halves what goes through the model at once. False if that would not help any more.
  bool TakeLessAtOnce() {
    const int64_t tokens = state_.tokens_at_once();
    if (tokens <= kLeastTokensAtOnce) return false;
    state_.set_tokens_at_once(tokens / 2);
    observer_.OnMessage(
        Severity::WARNING,
        absl::StrCat("Memory is short: ", tokens / 2, " input tokens instead of ", tokens,
                     " go through the model at once from here on. The batch of a "
                     "step and the schedule stay as they are."));
    return true;
  }

  // Tries the longest batch, so that a lack of memory shows before hours of shorter ones. Answers
  // whether it fits, perhaps with less at once.
  bool FitLongestBatch() {
    const Batch batch = work_.BatchAt(work_.LongestStep());
    while (!LossOf(batch)) {
      if (!TakeLessAtOnce()) return false;
    }
    ClearGradients(model_.trained());
    return true;
  }

  // One optimizer step, and what is to be told about it. Weights and optimizer are as they were
  // after an error.
  absl::StatusOr<ProgressReporter::Step> TakeStep() {
    const Batch batch = work_.BatchAt(step_);
    ProgressReporter::Step step;
    step.examples = batch.size();
    step.input_tokens = batch.input_tokens();
    step.target_tokens = batch.target_tokens();
    step.learning_rate = LearningRate(recipe_, step_, total_steps_);

    at::manual_seed(Random({recipe_.seed(), step_}).Next());
    const std::optional<double> loss = LossOf(batch);
    if (!loss) return OutOfMemory();
    step.loss = *loss;
    step.gradient_norm = GradientNorm(model_.trained());
    if (!std::isfinite(step.loss) || !std::isfinite(step.gradient_norm)) {
      return NonFinite(step_ + 1, std::isfinite(step.loss) ? "the gradient" : "the loss",
                       absl::StrCat(" (", work_.DescribeBatch(step_), ")"));
    }
    Optimizer::Update update{.step = step_ + 1, .learning_rate = step.learning_rate};
    if (recipe_.max_gradient_norm() > 0) {
      update.gradient_scale =
          std::min(1.0, recipe_.max_gradient_norm() / (step.gradient_norm + 1e-6));
    }
    optimizer_->Step(update);
    return step;
  }

  // Evaluates and remembers the best. CANCELLED once a stop is requested.
  absl::Status Judge() {
    progress_.Enter(v1::Progress::EVALUATING);
    absl::StatusOr<std::vector<v1::Evaluation>> evaluations =
        work_.Evaluate(model_, stop_, progress_);
    if (!evaluations.ok()) return evaluations.status();
    absl::Status announced = Announce(*evaluations, step_);
    if (!announced.ok()) return announced;
    state_.set_evaluated_step(step_);
    const std::optional<double> figure = work_.Figure(*evaluations);
    if (figure) NoteForEarlyStopping(recipe_, *figure, state_);
    if (figure && (state_.best_step() == 0 || *figure > state_.best_figure())) {
      state_.set_best_step(step_);
      state_.set_best_figure(*figure);
    }
    return absl::OkStatus();
  }

  // Tells of the evaluations of `step`.
  absl::Status Announce(std::vector<v1::Evaluation>& evaluations, int64_t step) {
    for (v1::Evaluation& evaluation : evaluations) {
      evaluation.set_step(step);
      if (!std::isfinite(evaluation.loss())) {
        return NonFinite(step, "the loss of an evaluation", "");
      }
      observer_.OnEvaluation(evaluation);
    }
    return absl::OkStatus();
  }

  // Writes a checkpoint.
  absl::Status Save() {
    progress_.Enter(v1::Progress::SAVING);
    if (!AllFinite(model_.trained())) return NonFinite(step_, "a weight", "");
    const absl::Time begin = absl::Now();
    absl::Status saved = checkpoints_.Save(step_, model_.trained(), optimizer_->state(), state_);
    if (!saved.ok()) {
      observer_.OnCheckpointTrouble(/*passed_over=*/false);
      return saved;
    }
    saved_step_ = step_;
    observer_.OnCheckpoint(step_, step_ > 0 && state_.best_step() == step_, absl::Now() - begin);
    return absl::OkStatus();
  }

  Work& work_;
  const v1::Recipe& recipe_;
  const int64_t total_steps_;
  const T5& model_;
  const std::unique_ptr<Optimizer> optimizer_;
  GraphCache graphs_;
  const Checkpoints& checkpoints_;
  const StopSignal& stop_;
  TrainingObserver& observer_;
  ProgressReporter& progress_;

  int64_t step_;        // steps done
  int64_t saved_step_;  // of the newest checkpoint, or kNotSaved if it does not know the state
  internal::TrainingState state_;
};

absl::StatusOr<TrainingOutcome> TrainOrThrow(const v1::TrainingJob& job,
                                             const TrainingPlaces& places,
                                             const TrainingOptions& options, const StopSignal& stop,
                                             TrainingObserver& observer) {
  ProgressReporter progress(observer);
  progress.Enter(v1::Progress::PREPARING);
  if (const auto device = OpenDevice(options.device); !device.ok()) return device.status();
  if (job.has_evaluation()) {
    SetNumerics(options.threads, options.kernels);
    return EvaluateVersion(job.evaluation(), places, options, stop, observer, progress);
  }

  if (absl::Status made = MakeDirectories(places.checkpoints_directory); !made.ok()) return made;
  const Checkpoints checkpoints(places.checkpoints_directory, WorkSha256(job));
  auto resumed = checkpoints.Newest([&](const std::string& text) {
    observer.OnCheckpointTrouble(/*passed_over=*/true);
    observer.OnMessage(Severity::WARNING, text);
  });
  if (!resumed.ok()) return resumed.status();
  auto finished = FinishedBefore(places.result_directory, *resumed);
  if (!finished.ok()) return finished.status();
  if (finished->has_value()) return **finished;
  Standing standing = BeginOrResume(*resumed, options, observer);

  auto work = PrepareWork(job, places, options.threads, stop, observer);
  if (absl::IsCancelled(work.status())) return TrainingOutcome{.step = standing.step};
  if (!work.ok()) return work.status();
  const auto model = FirstModel(**work, options.device);
  if (!model.ok()) return model.status();

  Attempt attempt(**work, *model, options.device, checkpoints, std::move(standing), stop, observer,
                  progress);
  absl::Status status = attempt.Prepare(options.out_of_memory);
  if (status.ok()) status = attempt.TakeSteps();
  if (status.ok()) {
    auto outcome = attempt.Publish(places);
    if (outcome.ok()) return outcome;
    status = outcome.status();
  }
  if (absl::IsCancelled(status)) return TrainingOutcome{.step = attempt.step()};
  return status;
}

}  // namespace

absl::StatusOr<TrainingOutcome> Train(const v1::TrainingJob& job, const TrainingPlaces& places,
                                      const TrainingOptions& options, const StopSignal& stop,
                                      TrainingObserver& observer) {
  try {
    return TrainOrThrow(job, places, options, stop, observer);
  } catch (const std::exception& error) {
    if (SaysOutOfMemory(error)) return OutOfMemory();
    if (const auto* const torch = dynamic_cast<const c10::Error*>(&error)) {
      return MakeError(absl::StatusCode::kInternal, v1::INTERNAL_ERROR,
                       torch->what_without_backtrace());
    }
    return MakeError(absl::StatusCode::kInternal, v1::INTERNAL_ERROR, error.what());
  }
}

}  // namespace tasuki
