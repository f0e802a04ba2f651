// Strict YAML for the daemons' own files: a key nobody asks for is an error that names key and file.
//
// Purpose: yaml-cpp's exceptions stop here. A Section reads its keys one by one; Finish() reports every failure and
// every key that was never read. An empty file is a mapping without keys.
// Threading: one thread per document. Errors: kInvalidArgument "FILE: lease.interval_ms: …; unknown key 'x'".
//
//   HK_ASSIGN_OR_RETURN(Document document, Document::Load(path));
//   Section root = document.root();
//   std::string role = root.String("role", Required{});
//   Section lease = root.Child("lease");
//   lease.Int("interval_ms", 1000, 50, 60000);
//   return document.Finish();
#pragma once

#include <yaml-cpp/yaml.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/status/status.h"

namespace heterok8s::config {

struct Required {};

class Document;

// One mapping of the document. Keys that are absent give the default; a wrong type is remembered as the failure.
class Section {
 public:
  std::string String(const std::string& key, const std::string& otherwise);
  std::string String(const std::string& key, Required);  // empty text is missing, too
  int64_t Int(const std::string& key, int64_t otherwise, int64_t least, int64_t most);
  // A list of exactly two numbers.
  std::pair<int64_t, int64_t> Range(const std::string& key, std::pair<int64_t, int64_t> otherwise, int64_t least,
                                    int64_t most);
  std::vector<std::string> Strings(const std::string& key, const std::vector<std::string>& otherwise);
  Section Child(const std::string& key);
  // "lease.interval_ms: TEXT" as one of the document's failures, unless that key has one already.
  void Fail(const std::string& key, const std::string& text);

 private:
  friend class Document;
  struct State;
  Section(std::shared_ptr<State> state, YAML::Node node, std::string path)
      : state_(std::move(state)), node_(std::move(node)), path_(std::move(path)) {}
  std::optional<YAML::Node> Find(const std::string& key);
  std::string PathOf(const std::string& key) const;

  std::shared_ptr<State> state_;
  YAML::Node node_;
  std::string path_;
};

class Document {
 public:
  static absl::StatusOr<Document> Load(const std::string& path);
  static absl::StatusOr<Document> Parse(const std::string& text, const std::string& name);

  Section root() const;
  // All failures of the sections, then the keys that no section read; of very many, the first ones.
  absl::Status Finish() const;

 private:
  explicit Document(std::shared_ptr<Section::State> state) : state_(std::move(state)) {}
  std::shared_ptr<Section::State> state_;
};

}  // namespace heterok8s::config
