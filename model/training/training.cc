// Read from top to bottom: what Train does is TrainOrThrow, and the loop in it is the training.
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

// The loss, with its gradients in the weights; nullopt if there is too little memory for it.
std::optional<double> LossOf(const Work& work, const T5& model, const Batch& batch,
                             const internal::TrainingState& state, GraphCache& graphs) {
  ClearGradients(model.trained());
  try {
    return Backward(model, batch,
                    {.dropout = DropoutOf(work),
                     .label_smoothing = work.recipe().label_smoothing(),
                     .tokens_at_once = state.tokens_at_once(),
                     .graphs = &graphs});
  } catch (const std::exception& error) {
    if (!SaysOutOfMemory(error)) throw;
  }
  graphs.Clear();
  ClearGradients(model.trained());
  return std::nullopt;
}

// Halves what goes through the model at once. False if that would not help any more.
bool TakeLessAtOnce(internal::TrainingState& state, TrainingObserver& observer) {
  const int64_t tokens = state.tokens_at_once();
  if (tokens <= kLeastTokensAtOnce) return false;
  state.set_tokens_at_once(tokens / 2);
  observer.OnMessage(
      Severity::WARNING,
      absl::StrCat("Memory ran out: ", tokens / 2, " input tokens instead of ", tokens,
                   " go through the model at once from here on. The batch of a "
                   "step and the schedule stay as they are."));
  return true;
}

// Tries the longest batch, so that a lack of memory shows before hours of shorter ones. Answers
// whether it fits, and how much at once if not everything did.
bool FitLongestBatch(Work& work, const T5& model, internal::TrainingState& state,
                     TrainingObserver& observer, GraphCache& graphs) {
  const Batch batch = work.BatchAt(work.LongestStep());
  while (!LossOf(work, model, batch, state, graphs)) {
    if (!TakeLessAtOnce(state, observer)) return false;
  }
  ClearGradients(model.trained());
  return true;
}

// One optimizer step, and what is to be told about it. Weights and optimizer are as they were after
// an error.
absl::StatusOr<ProgressReporter::Step> TakeStep(Work& work, const T5& model, Optimizer& optimizer,
                                                int64_t steps_done, int64_t total_steps,
                                                const internal::TrainingState& state,
                                                GraphCache& graphs) {
  const v1::Recipe& recipe = work.recipe();
  const Batch batch = work.BatchAt(steps_done);
  ProgressReporter::Step step;
  step.examples = batch.size();
  step.input_tokens = batch.input_tokens();
  step.target_tokens = batch.target_tokens();
  step.learning_rate = LearningRate(recipe, steps_done, total_steps);

  at::manual_seed(Random({recipe.seed(), steps_done}).Next());
  const std::optional<double> loss = LossOf(work, model, batch, state, graphs);
  if (!loss) return OutOfMemory();
  step.loss = *loss;
  step.gradient_norm = GradientNorm(model.trained());
  if (!std::isfinite(step.loss) || !std::isfinite(step.gradient_norm)) {
    return NonFinite(steps_done + 1, std::isfinite(step.loss) ? "the gradient" : "the loss",
                     absl::StrCat(" (", work.DescribeBatch(steps_done), ")"));
  }
  Optimizer::Update update{.step = steps_done + 1, .learning_rate = step.learning_rate};
  if (recipe.max_gradient_norm() > 0) {
    update.gradient_scale = std::min(1.0, recipe.max_gradient_norm() / (step.gradient_norm + 1e-6));
  }
  optimizer.Step(update);
  return step;
}

// Tells of the evaluations of `step`.
absl::Status Announce(std::vector<v1::Evaluation>& evaluations, int64_t step,
                      TrainingObserver& observer) {
  for (v1::Evaluation& evaluation : evaluations) {
    evaluation.set_step(step);
    if (!std::isfinite(evaluation.loss())) return NonFinite(step, "the loss of an evaluation", "");
    observer.OnEvaluation(evaluation);
  }
  return absl::OkStatus();
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

// Evaluates after `step` and remembers the best. CANCELLED once `stop` is requested.
absl::Status Judge(const Work& work, const T5& model, int64_t step, const StopSignal& stop,
                   TrainingObserver& observer, internal::TrainingState& state) {
  absl::StatusOr<std::vector<v1::Evaluation>> evaluations = work.Evaluate(model, stop);
  if (!evaluations.ok()) return evaluations.status();
  absl::Status announced = Announce(*evaluations, step, observer);
  if (!announced.ok()) return announced;
  state.set_evaluated_step(step);
  const std::optional<double> figure = work.Figure(*evaluations);
  if (figure) NoteForEarlyStopping(work.recipe(), *figure, state);
  if (figure && (state.best_step() == 0 || *figure > state.best_figure())) {
    state.set_best_step(step);
    state.set_best_figure(*figure);
  }
  return absl::OkStatus();
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

absl::StatusOr<TrainingOutcome> TrainOrThrow(const v1::TrainingJob& job,
                                             const TrainingPlaces& places,
                                             const TrainingOptions& options, const StopSignal& stop,
                                             TrainingObserver& observer) {
  const auto warn = [&](const std::string& text) { observer.OnMessage(Severity::WARNING, text); };
  ProgressReporter progress(observer);
  progress.Enter(v1::Progress::PREPARING);
  if (const auto device = OpenDevice(options.device); !device.ok()) return device.status();
  if (job.has_evaluation()) {
    SetNumerics(options.threads, options.kernels);
    return EvaluateVersion(job.evaluation(), places, options, stop, observer, progress);
  }

  // Where it stands.
  if (absl::Status made = MakeDirectories(places.checkpoints_directory); !made.ok()) return made;
  const Checkpoints checkpoints(places.checkpoints_directory, WorkSha256(job));
  auto resumed = checkpoints.Newest([&](const std::string& text) {
    observer.OnCheckpointTrouble(/*passed_over=*/true);
    warn(text);
  });
  if (!resumed.ok()) return resumed.status();
  auto finished = FinishedBefore(places.result_directory, *resumed);
  if (!finished.ok()) return finished.status();
  if (finished->has_value()) return **finished;

  internal::TrainingState state;
  state.set_threads(options.threads);
  state.set_kernels(options.kernels);
  state.set_tokens_at_once(TokensAtOnce(options.device));
  state.set_libtorch_version(TORCH_VERSION);
  const std::string device = options.device == "cpu" ? "" : "cuda";
  state.set_device(device);
  int64_t step = 0;  // steps done
  if (resumed->has_value()) {
    step = (*resumed)->step();
    state = (*resumed)->state();
    if (state.tokens_at_once() == 0) state.set_tokens_at_once(kTokensAtOnce);
    if (state.libtorch_version() != TORCH_VERSION) {
      warn(absl::StrCat("The job began with LibTorch ", state.libtorch_version(),
                        " and goes on with ", TORCH_VERSION,
                        ": its weights may differ in the last digits."));
    }
  }
  if (state.device() != device) {
    warn(absl::StrCat("The job began on another device and goes on on ", options.device,
                      ": its weights may differ in the last digits."));
  }
  const std::string kernels = SetNumerics(state.threads(), state.kernels());
  if (kernels != state.kernels() && resumed->has_value() && !state.kernels().empty()) {
    warn(absl::StrCat("The job began with kernels ", state.kernels(),
                      ", which this CPU has not, and goes on with ", kernels,
                      ": its weights may differ in the last digits."));
  }
  state.set_kernels(kernels);
  const auto stopped = [&] { return TrainingOutcome{.finished = false, .step = step}; };

  // Data, weights, optimizer.
  auto prepared = PrepareWork(job, places, options.threads, stop, observer);
  if (absl::IsCancelled(prepared.status())) return stopped();
  if (!prepared.ok()) return prepared.status();
  Work& work = **prepared;
  const v1::Recipe& recipe = work.recipe();
  const int64_t total_steps = TotalSteps(work);
  const int64_t evaluate_every = StepsPerEvaluation(work);
  const int64_t checkpoint_every = recipe.checkpoint_every_steps();

  const auto first = FirstModel(work, options.device);
  if (!first.ok()) return first.status();
  const T5& model = *first;
  const std::unique_ptr<Optimizer> optimizer = Optimizer::Create(recipe, model.trained());
  GraphCache graphs{at::Device(options.device)};
  if (step > 0) {
    absl::Status read = checkpoints.ReadWeights(step, model.trained());
    if (read.ok()) read = checkpoints.ReadOptimizer(step, optimizer->state());
    if (!read.ok()) return read;
    observer.OnMessage(Severity::INFO,
                       absl::StrCat("Goes on from the checkpoint of step ", step, "."));
  }

  constexpr int64_t kNotSaved = -1;
  int64_t saved_step = step;
  const auto save_now = [&]() -> absl::Status {
    progress.Enter(v1::Progress::SAVING);
    if (!AllFinite(model.trained())) return NonFinite(step, "a weight", "");
    const absl::Time begin = absl::Now();
    absl::Status saved = checkpoints.Save(step, model.trained(), optimizer->state(), state);
    if (!saved.ok()) {
      observer.OnCheckpointTrouble(/*passed_over=*/false);
      return saved;
    }
    saved_step = step;
    observer.OnCheckpoint(step, step > 0 && state.best_step() == step, absl::Now() - begin);
    return absl::OkStatus();
  };

  // What goes through the model at once is part of the numerics: when it changes, a checkpoint has
  // to know before the next step; of a death by it, even before it is tried.
  if (options.out_of_memory && TakeLessAtOnce(state, observer)) {
    if (absl::Status saved = save_now(); !saved.ok()) return saved;
  }
  const int64_t at_once = state.tokens_at_once();
  progress.Enter(v1::Progress::PREPARING);
  if (step < total_steps && !FitLongestBatch(work, model, state, observer, graphs)) {
    return OutOfMemory();
  }
  if (state.tokens_at_once() != at_once) saved_step = kNotSaved;

  // The training.
  progress.SetWork(step, total_steps, work.steps_per_epoch());
  const absl::Time begin = absl::Now();
  const double seconds_before = state.training_seconds();
  while (true) {
    state.set_training_seconds(seconds_before + absl::ToDoubleSeconds(absl::Now() - begin));
    const bool over = step == total_steps || EndsEarly(recipe, step, stop, state);
    const bool evaluate = step > state.evaluated_step() && (over || step % evaluate_every == 0);
    if (evaluate) {
      progress.Enter(v1::Progress::EVALUATING);
      absl::Status judged = Judge(work, model, step, stop, observer, state);
      if (!judged.ok() && !absl::IsCancelled(judged)) return judged;
    }
    const bool last = over || !state.ended_by().empty();

    const int request = stop.request.load();
    if (request == StopSignal::kAbandon) return stopped();
    const bool save = last || request == StopSignal::kStop || saved_step == kNotSaved ||
                      (checkpoint_every > 0 && step % checkpoint_every == 0);
    if (evaluate || (save && step > saved_step)) {
      if (absl::Status saved = save_now(); !saved.ok()) return saved;
    }
    if (stop.requested() && step == saved_step) return stopped();
    if (last) break;

    progress.Enter(v1::Progress::TRAINING);
    auto taken = TakeStep(work, model, *optimizer, step, total_steps, state, graphs);
    if (ReasonOf(taken.status()) == v1::OUT_OF_MEMORY && TakeLessAtOnce(state, observer)) {
      saved_step = kNotSaved;
      continue;
    }
    if (!taken.ok()) {
      // What went before the bad step is kept for those who look into it, and for a retry.
      if (step > saved_step) save_now().IgnoreError();
      return taken.status();
    }
    ++step;
    progress.Add(*taken);
  }
  if (step < total_steps) {
    observer.OnMessage(Severity::INFO, absl::StrCat("The training ends after step ", step, " of ",
                                                    total_steps, ": ", state.ended_by(), "."));
  }

  // The best weights, judged and published. They take the place of the last ones.
  ClearGradients(model.trained());
  TrainingOutcome outcome{.finished = true, .step = step, .best_step = step};
  if (state.best_step() != 0 && state.best_step() != step) {
    outcome.best_step = state.best_step();
    absl::Status read = checkpoints.ReadWeights(outcome.best_step, model.trained());
    if (!read.ok()) return read;
  }
  progress.Enter(v1::Progress::EVALUATING);
  auto judgement = work.EvaluateFinally(model, stop, observer);
  if (absl::IsCancelled(judgement.status())) return stopped();
  if (!judgement.ok()) return judgement.status();
  absl::Status status = Announce(judgement->evaluations, outcome.best_step, observer);
  if (!status.ok()) return status;

  progress.Enter(v1::Progress::PUBLISHING);
  internal::ModelManifest manifest = work.Manifest();
  manifest.set_training_job(places.training_job);
  manifest.mutable_evaluations()->Assign(judgement->evaluations.begin(),
                                         judgement->evaluations.end());
  manifest.mutable_calibrations()->Assign(judgement->calibrations.begin(),
                                          judgement->calibrations.end());
  status = RemoveAll(places.result_directory);
  if (status.ok()) {
    status = WriteResult(places.result_directory, model, work.tokenizer_directory(),
                         std::move(manifest));
  }
  if (!status.ok()) return status;
  outcome.evaluations = std::move(judgement->evaluations);
  outcome.calibrations = std::move(judgement->calibrations);
  return outcome;
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
