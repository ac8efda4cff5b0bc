// CUDA graphs: passes of the same shape, whose thousands of kernels are launched as one. Private to
// model/: includes torch.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

namespace tasuki {

// What was launched in one pass, to be launched again on the same memory. Thread-compatible.
class Graph {
 public:
  virtual ~Graph() = default;
  // Records what `work` launches on the thread's stream, and on autograd's threads for it; nothing
  // of it is computed yet. Throws what `work` throws, or c10::Error if something in it cannot be
  // recorded; the graph is of no use then.
  virtual void Capture(const std::function<void()>& work) = 0;
  virtual void Replay() = 0;
};

// A source of graphs that share memory, since they never run at the same time.
class GraphMaker {
 public:
  virtual ~GraphMaker() = default;
  virtual std::unique_ptr<Graph> Make() = 0;
};

// Of an opened device (device.h); null for a CPU.
std::unique_ptr<GraphMaker> MakeGraphMaker(at::Device device);

// Passes by their shapes. The first two of a shape are computed as they are, which also warms up
// what a capture must not: libraries, their work spaces, modules of kernels. The third is captured,
// and replayed from then on. Thread-compatible.
class GraphCache {
 public:
  // Reads numbers that came from the host, and answers a tensor. The same shape must always launch
  // the same on the same memory beside the numbers: no look at a tensor's values, no copy from or
  // to the host, no memory that may be another next time. It is kept as long as the cache lives.
  using Pass = std::function<at::Tensor(const at::Tensor& numbers)>;

  GraphCache(at::Device device, std::unique_ptr<GraphMaker> maker);
  explicit GraphCache(at::Device device) : GraphCache(device, MakeGraphMaker(device)) {}

  // What `pass` makes of `numbers`, which are brought to the device. `shape` is all that decides
  // what is launched. The result is valid until the next Run of that shape. Throws what `pass`
  // does.
  at::Tensor Run(const std::vector<int64_t>& shape, const std::vector<int64_t>& numbers,
                 const Pass& pass);
  // Forgets all shapes and gives the memory of their graphs back.
  void Clear();
  int64_t captured() const { return captured_; }

 private:
  struct Entry {
    int runs = 0;
    bool refused = false;  // it could not be captured
    Pass pass;
    at::Tensor numbers, result;  // what the graph reads and leaves
    std::unique_ptr<Graph> graph;
  };

  void Capture(Entry& entry, const at::Tensor& numbers);

  const at::Device device_;
  const std::unique_ptr<GraphMaker> maker_;
  std::map<std::vector<int64_t>, Entry> entries_;
  int64_t captured_ = 0;
};

// Numbers for a pass, one array after the other, on the host …
class NumberWriter {
 public:
  void Add(const std::vector<int64_t>& numbers);
  void Add(const std::vector<double>& numbers);  // as their bits
  const std::vector<int64_t>& numbers() const { return numbers_; }

 private:
  std::vector<int64_t> numbers_;
};

// … and on the device, in the same order: views.
class NumberReader {
 public:
  explicit NumberReader(const at::Tensor& numbers) : numbers_(numbers) {}
  at::Tensor Next(int64_t count);         // int64
  at::Tensor NextDoubles(int64_t count);  // float64

 private:
  const at::Tensor numbers_;
  int64_t begin_ = 0;
};

}  // namespace tasuki
