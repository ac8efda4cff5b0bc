// Read from top to bottom: what Train does is TrainOrThrow, and the loop in it is the training.
#include "model/training/training.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <torch/version.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "model/files/model_directory.h"
#include "model/files/sha256.h"
#include "model/training/checkpoint.h"
#include "model/training/optimizer.h"
#include "model/training/progress.h"
#include "model/training/random.h"
#include "model/training/result.h"
#include "model/training/version_evaluation.h"
#include "model/training/work.h"

namespace tasuki {
namespace {

using Severity = v1::TrainingJobEvent::Message;

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

absl::StatusOr<std::unique_ptr<Work>> Prepare(const v1::TrainingJob& job,
                                              const TrainingPlaces& places, int threads,
                                              const StopSignal& stop, TrainingObserver& observer) {
  if (job.has_pretraining()) {
    return PreparePretraining(job.pretraining(), places, threads, stop, observer);
  }
  return PrepareFineTuning(job.fine_tuning(), places, stop, observer);
}

// Numerics of the whole attempt. Denormal numbers, which the averages of rarely seen words decay
// to, cost a hundred times a normal one; each thread has its own switch.
void SetNumerics(int threads) {
  at::set_num_threads(threads);
  at::parallel_for(0, threads, 1,
                   [](int64_t, int64_t) { at::globalContext().setFlushDenormal(true); });
  at::globalContext().setFlushDenormal(true);
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

WeightMap OnDevice(WeightMap weights, const std::string& device) {
  for (auto& [name, weight] : weights) weight = weight.to(at::Device(device));
  return weights;
}

// One optimizer step, and what is to be told about it.
absl::StatusOr<ProgressReporter::Step> TakeStep(Work& work, const T5& model, Optimizer& optimizer,
                                                int64_t steps_done, int64_t total_steps) {
  const v1::Recipe& recipe = work.recipe();
  const Batch batch = work.BatchAt(steps_done);
  ProgressReporter::Step step;
  step.examples = batch.size();
  step.input_tokens = batch.input_tokens();
  step.target_tokens = batch.target_tokens();
  step.learning_rate = LearningRate(recipe, steps_done, total_steps);

  at::manual_seed(Random({recipe.seed(), steps_done}).Next());
  ClearGradients(model.weights());
  step.loss = Backward(model, batch, recipe.dropout());
  step.gradient_norm = GradientNorm(model.weights());
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

// Evaluates after `step` and remembers the best. CANCELLED once `stop` is requested.
absl::Status Judge(const Work& work, const T5& model, int64_t step, const StopSignal& stop,
                   TrainingObserver& observer, internal::TrainingState& state) {
  absl::StatusOr<std::vector<v1::Evaluation>> evaluations = work.Evaluate(model, stop);
  if (!evaluations.ok()) return evaluations.status();
  absl::Status announced = Announce(*evaluations, step, observer);
  if (!announced.ok()) return announced;
  state.set_evaluated_step(step);
  const std::optional<double> figure = work.Figure(*evaluations);
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
  if (job.has_evaluation()) {
    SetNumerics(options.threads);
    return EvaluateVersion(job.evaluation(), places, options, stop, observer, progress);
  }

  // Where it stands.
  if (absl::Status made = MakeDirectories(places.checkpoints_directory); !made.ok()) return made;
  const Checkpoints checkpoints(places.checkpoints_directory, WorkSha256(job));
  auto resumed = checkpoints.Newest(warn);
  if (!resumed.ok()) return resumed.status();
  auto finished = FinishedBefore(places.result_directory, *resumed);
  if (!finished.ok()) return finished.status();
  if (finished->has_value()) return **finished;

  internal::TrainingState state;
  state.set_threads(options.threads);
  state.set_libtorch_version(TORCH_VERSION);
  int64_t step = 0;  // steps done
  if (resumed->has_value()) {
    step = (*resumed)->step();
    state = (*resumed)->state();
    if (state.libtorch_version() != TORCH_VERSION) {
      warn(absl::StrCat("The job began with LibTorch ", state.libtorch_version(),
                        " and goes on with ", TORCH_VERSION,
                        ": its weights may differ in the last digits."));
    }
  }
  SetNumerics(state.threads());
  const auto stopped = [&] { return TrainingOutcome{.finished = false, .step = step}; };

  // Data, weights, optimizer.
  auto prepared = Prepare(job, places, options.threads, stop, observer);
  if (absl::IsCancelled(prepared.status())) return stopped();
  if (!prepared.ok()) return prepared.status();
  Work& work = **prepared;
  const v1::Recipe& recipe = work.recipe();
  const int64_t total_steps =
      recipe.has_steps() ? recipe.steps() : recipe.epochs() * work.steps_per_epoch();
  const int64_t evaluate_every =
      recipe.evaluate_every_steps() > 0 ? recipe.evaluate_every_steps() : work.steps_per_epoch();
  const int64_t checkpoint_every = recipe.checkpoint_every_steps();

  auto weights =
      step > 0 ? ReadWeights(checkpoints.DirectoryOf(step), work.config()) : work.FirstWeights();
  if (!weights.ok()) return weights.status();
  const T5 model(work.config(), OnDevice(*std::move(weights), options.device));
  const std::unique_ptr<Optimizer> optimizer = Optimizer::Create(recipe, model.weights());
  if (step > 0) {
    absl::Status read = checkpoints.ReadOptimizer(step, optimizer->state());
    if (!read.ok()) return read;
    observer.OnMessage(Severity::INFO,
                       absl::StrCat("Goes on from the checkpoint of step ", step, "."));
  }

  // The training.
  progress.SetWork(step, total_steps, work.steps_per_epoch());
  int64_t saved_step = step;
  while (true) {
    const bool last = step == total_steps;
    const bool evaluate = step > state.evaluated_step() && (last || step % evaluate_every == 0);
    if (evaluate) {
      progress.Enter(v1::Progress::EVALUATING);
      absl::Status judged = Judge(work, model, step, stop, observer, state);
      if (!judged.ok() && !absl::IsCancelled(judged)) return judged;
    }

    const int request = stop.request.load();
    if (request == StopSignal::kAbandon) return stopped();
    const bool save = last || request == StopSignal::kStop ||
                      (checkpoint_every > 0 && step % checkpoint_every == 0);
    if (evaluate || (save && step > saved_step)) {
      progress.Enter(v1::Progress::SAVING);
      if (!AllFinite(model.weights())) return NonFinite(step, "a weight", "");
      absl::Status saved = checkpoints.Save(step, model.weights(), optimizer->state(), state);
      if (!saved.ok()) return saved;
      saved_step = step;
      observer.OnCheckpoint(step, state.best_step() == step);
    }
    if (stop.requested() && step == saved_step) return stopped();
    if (last) break;

    progress.Enter(v1::Progress::TRAINING);
    auto taken = TakeStep(work, model, *optimizer, step, total_steps);
    if (!taken.ok()) return taken.status();
    ++step;
    progress.Add(*taken);
  }

  // The best weights, judged and published.
  ClearGradients(model.weights());
  TrainingOutcome outcome{.finished = true, .step = step, .best_step = step};
  std::optional<T5> earlier;
  if (state.best_step() != 0 && state.best_step() != step) {
    outcome.best_step = state.best_step();
    auto best = ReadWeights(checkpoints.DirectoryOf(outcome.best_step), work.config());
    if (!best.ok()) return best.status();
    earlier.emplace(work.config(), OnDevice(*std::move(best), options.device));
  }
  const T5& published = earlier ? *earlier : model;
  progress.Enter(v1::Progress::EVALUATING);
  auto judgement = work.EvaluateFinally(published, stop, observer);
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
    status = WriteResult(places.result_directory, work.config(), published.weights(),
                         work.tokenizer_directory(), std::move(manifest));
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
  const auto out_of_memory = [] {
    return MakeError(absl::StatusCode::kResourceExhausted, v1::OUT_OF_MEMORY,
                     "the training does not fit into memory; a smaller batch_size or "
                     "max_input_tokens may help");
  };
  try {
    return TrainOrThrow(job, places, options, stop, observer);
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  } catch (const c10::Error& error) {
    const char* const what = error.what_without_backtrace();
    // "DefaultCPUAllocator: can't allocate memory: …"; "CUDA out of memory."
    if (absl::StrContains(what, "allocate memory") || absl::StrContains(what, "out of memory")) {
      return out_of_memory();
    }
    return MakeError(absl::StatusCode::kInternal, v1::INTERNAL_ERROR, what);
  } catch (const std::exception& error) {
    return MakeError(absl::StatusCode::kInternal, v1::INTERNAL_ERROR, error.what());
  }
}

}  // namespace tasuki
