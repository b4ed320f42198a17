// Run a step graph in onnxruntime's C++ API; the states have two buffers each, which change places.
//
//     c++ -std=c++17 run.cpp -I onnxruntime/include -L onnxruntime/lib -lonnxruntime -o run
//     ./run model.onnx frames.f32 outputs.f32

#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

using Shape = std::vector<int64_t>;

struct Tensor {  // memory of our own, and its name and shape in the graph
  std::string name;
  Shape shape;
  std::vector<float> data;

  Tensor(std::string name, Shape shape) : name(std::move(name)), shape(std::move(shape)) {
    data.resize(std::accumulate(this->shape.begin(), this->shape.end(), int64_t{1},
                                std::multiplies<int64_t>()));
  }

  Ort::Value value() {
    static const auto cpu = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    return Ort::Value::CreateTensor<float>(cpu, data.data(), data.size(), shape.data(),
                                           shape.size());
  }
};

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "streamrnn");
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  const std::string model = argv[1];  // on Windows: std::wstring
  Ort::Session session(env, model.c_str(), options);
  Ort::AllocatorWithDefaultOptions allocator;
  const auto notes =
      session.GetModelMetadata().LookupCustomMetadataMapAllocated("streamrnn", allocator);
  const auto layout = nlohmann::json::parse(notes.get());

  std::vector<Tensor> inputs, outputs;  // the states, and in the end the frames and the output
  for (const auto& state : layout["states"]) {
    const auto shape = state["shape"].get<Shape>();
    inputs.emplace_back(state["input"].get<std::string>(), shape);
    outputs.emplace_back(state["output"].get<std::string>(), shape);
    auto& data = inputs.back().data;
    const auto& initial = state["initial"];
    if (initial.is_array()) {
      data = initial.get<std::vector<float>>();
    } else {
      data.assign(data.size(), initial.get<float>());
    }
  }
  const size_t n_states = inputs.size();
  const auto is_state = [n_states](const std::vector<Tensor>& states, const std::string& name) {
    for (size_t i = 0; i < n_states; ++i)
      if (states[i].name == name) return true;
    return false;
  };
  for (size_t i = 0; i < session.GetInputCount(); ++i) {
    const std::string name = session.GetInputNameAllocated(i, allocator).get();
    const auto info = session.GetInputTypeInfo(i);
    if (!is_state(inputs, name))
      inputs.emplace_back(name, info.GetTensorTypeAndShapeInfo().GetShape());
  }
  for (size_t i = 0; i < session.GetOutputCount(); ++i) {
    const std::string name = session.GetOutputNameAllocated(i, allocator).get();
    const auto info = session.GetOutputTypeInfo(i);
    if (!is_state(outputs, name))
      outputs.emplace_back(name, info.GetTensorTypeAndShapeInfo().GetShape());
  }

  std::vector<const char*> input_names, output_names;
  for (const auto& tensor : inputs) input_names.push_back(tensor.name.c_str());
  for (const auto& tensor : outputs) output_names.push_back(tensor.name.c_str());
  const auto stride = layout["stride_frames"].get<int64_t>();
  const auto waited = layout["delay_frames"].get<int64_t>() / stride;

  std::ifstream source(argv[2], std::ios::binary);
  std::ofstream target(argv[3], std::ios::binary);
  auto& frames = inputs.back().data;  // `stride_frames` frames
  const auto bytes = [](const std::vector<float>& data) {
    return static_cast<std::streamsize>(data.size() * sizeof(float));
  };
  for (int64_t call = 0; source.read(reinterpret_cast<char*>(frames.data()), bytes(frames));
       ++call) {
    std::vector<Ort::Value> given, made;
    for (auto& tensor : inputs) given.push_back(tensor.value());
    for (auto& tensor : outputs) made.push_back(tensor.value());
    session.Run(Ort::RunOptions{nullptr}, input_names.data(), given.data(), given.size(),
                output_names.data(), made.data(), made.size());
    for (size_t i = 0; i < n_states; ++i) std::swap(inputs[i].data, outputs[i].data);
    const auto& y = outputs.back().data;
    if (call >= waited)  // before, the outputs mean nothing
      target.write(reinterpret_cast<const char*>(y.data()), bytes(y));
  }
  return 0;
}
