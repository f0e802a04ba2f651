#include "heteroctl/manifest/reader.h"

#include <fmt/format.h>

#include <charconv>

namespace heterok8s::manifest {

Reader::Reader(YAML::Node node, std::string path, std::vector<std::string>& warnings)
    : node_(std::move(node)), path_(std::move(path)), warnings_(warnings) {
  if (!node_.IsMap()) throw FieldError(fmt::format("{}: expected a mapping", path_.empty() ? "document" : path_));
}

std::string Reader::PathOf(const std::string& key) const {
  return path_.empty() || key.empty() ? path_ + key : path_ + "." + key;
}

void Reader::Fail(const std::string& key, const std::string& message) const {
  throw FieldError(fmt::format("{}: {}", PathOf(key), message));
}

bool Reader::Has(const std::string& key) const { return node_[key].IsDefined() && !node_[key].IsNull(); }

YAML::Node Reader::Take(const std::string& key) {
  taken_.insert(key);
  return node_[key];
}

std::string Reader::Text(const std::string& key, const std::string& fallback) {
  YAML::Node value = Take(key);
  if (!value.IsDefined() || value.IsNull()) return fallback;
  if (!value.IsScalar()) Fail(key, "expected a text");
  return value.Scalar();
}

std::string Reader::Required(const std::string& key) {
  std::string value = Text(key);
  if (value.empty()) Fail(key, "is required");
  return value;
}

int64_t Reader::Integer(const std::string& key, int64_t fallback, int64_t lowest, int64_t highest) {
  std::string text = Text(key);
  if (text.empty()) return fallback;
  int64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < lowest || value > highest) {
    Fail(key, fmt::format("'{}' is not a number from {} to {}", text, lowest, highest));
  }
  return value;
}

bool Reader::Flag(const std::string& key, bool fallback) {
  std::string text = Text(key);
  if (text.empty()) return fallback;
  if (text == "true") return true;
  if (text == "false") return false;
  Fail(key, fmt::format("'{}' is not true or false", text));
}

std::vector<std::string> Reader::Texts(const std::string& key) {
  YAML::Node list = Take(key);
  std::vector<std::string> texts;
  if (!list.IsDefined() || list.IsNull()) return texts;
  if (!list.IsSequence()) Fail(key, "expected a list of texts");
  for (const YAML::Node& item : list) {
    if (!item.IsScalar()) Fail(key, "expected a list of texts");
    texts.push_back(item.Scalar());
  }
  return texts;
}

std::map<std::string, std::string> Reader::Map(const std::string& key) {
  YAML::Node mapping = Take(key);
  std::map<std::string, std::string> values;
  if (!mapping.IsDefined() || mapping.IsNull()) return values;
  if (!mapping.IsMap()) Fail(key, "expected a mapping of texts");
  for (const auto& entry : mapping) {
    if (!entry.second.IsScalar()) Fail(key, fmt::format("'{}' must be a text", entry.first.Scalar()));
    values[entry.first.Scalar()] = entry.second.Scalar();
  }
  return values;
}

void Reader::Object(const std::string& key, const std::function<void(Reader&)>& fn) {
  YAML::Node value = Take(key);
  if (!value.IsDefined() || value.IsNull()) return;
  Reader reader(value, PathOf(key), warnings_);
  fn(reader);
  reader.Finish();
}

void Reader::Each(const std::string& key, const std::function<void(Reader&)>& fn) {
  YAML::Node list = Take(key);
  if (!list.IsDefined() || list.IsNull()) return;
  if (!list.IsSequence()) Fail(key, "expected a list");
  for (size_t i = 0; i < list.size(); ++i) {
    Reader reader(list[i], fmt::format("{}[{}]", PathOf(key), i), warnings_);
    fn(reader);
    reader.Finish();
  }
}

void Reader::Ignore(std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    taken_.insert(key);
    if (Has(key)) warnings_.push_back(fmt::format("{}: has no effect here", PathOf(key)));
  }
}

void Reader::Finish() {
  for (const auto& entry : node_) {
    const std::string& key = entry.first.Scalar();
    if (!taken_.contains(key)) Fail(key, "unknown field");
  }
}

}  // namespace heterok8s::manifest
