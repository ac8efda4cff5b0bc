// Graphs without a GPU: what is captured is computed when it is replayed.
#pragma once

#include <functional>
#include <memory>
#include <stdexcept>

#include "model/t5/graphs.h"

namespace tasuki {

class FakeGraph : public Graph {
 public:
  FakeGraph(int* replays, bool able) : replays_(replays), able_(able) {}
  void Capture(const std::function<void()>& work) override {
    if (!able_) throw std::runtime_error("cannot be captured");
    work_ = work;
  }
  void Replay() override {
    ++*replays_;
    work_();
  }

 private:
  int* const replays_;
  const bool able_;
  std::function<void()> work_;
};

// Counts replays; if it is not able, every capture fails.
class FakeGraphMaker : public GraphMaker {
 public:
  explicit FakeGraphMaker(int* replays, bool able = true) : replays_(replays), able_(able) {}
  std::unique_ptr<Graph> Make() override { return std::make_unique<FakeGraph>(replays_, able_); }

 private:
  int* const replays_;
  const bool able_;
};

}  // namespace tasuki
