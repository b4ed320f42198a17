// What docs/snippets/run.cpp uses of nlohmann/json, declared only.
#pragma once

namespace nlohmann {

struct json {
  static json parse(const char*);
  const json& operator[](const char* key) const;
  const json* begin() const;
  const json* end() const;
  bool is_array() const;
  template <typename T>
  T get() const;
};

}  // namespace nlohmann
