// What docs/snippets/run.cpp uses of onnxruntime's C++ API, declared only: enough to check its syntax
// and its types where the library's own header is not at hand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

enum OrtLoggingLevel { ORT_LOGGING_LEVEL_WARNING };
enum OrtAllocatorType { OrtArenaAllocator };
enum OrtMemType { OrtMemTypeDefault };
struct OrtAllocator;
struct OrtMemoryInfo;

namespace Ort {

struct Env {
  Env(OrtLoggingLevel, const char* name);
};
struct SessionOptions {
  SessionOptions& SetIntraOpNumThreads(int);
};
struct RunOptions {
  explicit RunOptions(std::nullptr_t);
};
struct MemoryInfo {
  static MemoryInfo CreateCpu(OrtAllocatorType, OrtMemType);
  operator const OrtMemoryInfo*() const;
};
struct AllocatorWithDefaultOptions {
  operator OrtAllocator*() const;
};
struct Free {
  void operator()(void*) const;
};
using AllocatedStringPtr = std::unique_ptr<char, Free>;
struct ModelMetadata {
  AllocatedStringPtr LookupCustomMetadataMapAllocated(const char* key, OrtAllocator*) const;
};
struct ConstTensorTypeAndShapeInfo {
  std::vector<int64_t> GetShape() const;
};
struct TypeInfo {
  ConstTensorTypeAndShapeInfo GetTensorTypeAndShapeInfo() const;
};
struct Value {
  Value(Value&&);
  Value(const Value&) = delete;
  template <typename T>
  static Value CreateTensor(const OrtMemoryInfo*, T*, size_t count, const int64_t* shape, size_t axes);
};
struct Session {
  Session(const Env&, const char* path, const SessionOptions&);
  size_t GetInputCount() const;
  size_t GetOutputCount() const;
  AllocatedStringPtr GetInputNameAllocated(size_t, OrtAllocator*) const;
  AllocatedStringPtr GetOutputNameAllocated(size_t, OrtAllocator*) const;
  TypeInfo GetInputTypeInfo(size_t) const;
  TypeInfo GetOutputTypeInfo(size_t) const;
  ModelMetadata GetModelMetadata() const;
  void Run(const RunOptions&, const char* const* input_names, const Value* inputs, size_t n_inputs,
           const char* const* output_names, Value* outputs, size_t n_outputs);
};

}  // namespace Ort
