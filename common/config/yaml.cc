#include "common/config/yaml.h"

#include <fmt/format.h>

#include <set>

#include "common/sys/file.h"

namespace heterok8s::config {

struct Section::State {
  std::string name;  // of the file
  YAML::Node root;
  std::set<std::string> read;  // paths
  std::vector<std::string> mistakes;
  std::set<std::string> mistaken;  // paths
};

namespace {

constexpr size_t kMistakesSaid = 20;

// Adds the keys below `node` that are not in `read`.
void FindUnread(const YAML::Node& node, const std::string& path, const std::set<std::string>& read,
                std::set<std::string>& unread) {
  for (const auto& entry : node) {
    const std::string key = path.empty() ? entry.first.Scalar() : path + "." + entry.first.Scalar();
    if (!read.contains(key)) {
      unread.insert(key);
    } else if (entry.second.IsMap()) {
      FindUnread(entry.second, key, read, unread);
    }
  }
}

}  // namespace

std::string Section::PathOf(const std::string& key) const { return path_.empty() ? key : path_ + "." + key; }

void Section::Fail(const std::string& key, const std::string& text) {
  if (state_->mistaken.insert(PathOf(key)).second) state_->mistakes.push_back(fmt::format("{}: {}", PathOf(key), text));
}

std::optional<YAML::Node> Section::Find(const std::string& key) {
  state_->read.insert(PathOf(key));
  if (!node_.IsMap()) return std::nullopt;
  const YAML::Node& constant = node_;  // the non-const operator[] would add the key
  YAML::Node found = constant[key];
  if (!found.IsDefined() || found.IsNull()) return std::nullopt;
  return found;
}

std::string Section::String(const std::string& key, const std::string& otherwise) {
  std::optional<YAML::Node> node = Find(key);
  if (!node) return otherwise;
  if (!node->IsScalar()) {
    Fail(key, "is no text");
    return otherwise;
  }
  return node->Scalar();
}

std::string Section::String(const std::string& key, Required) {
  std::string value = String(key, "");
  if (value.empty()) Fail(key, "is missing");
  return value;
}

int64_t Section::Int(const std::string& key, int64_t otherwise, int64_t least, int64_t most) {
  std::optional<YAML::Node> node = Find(key);
  if (!node) return otherwise;
  int64_t value = 0;
  if (!node->IsScalar() || !YAML::convert<int64_t>::decode(*node, value) || value < least || value > most) {
    Fail(key, fmt::format("is no number from {} to {}", least, most));
    return otherwise;
  }
  return value;
}

std::pair<int64_t, int64_t> Section::Range(const std::string& key, std::pair<int64_t, int64_t> otherwise, int64_t least,
                                           int64_t most) {
  std::optional<YAML::Node> node = Find(key);
  if (!node) return otherwise;
  std::pair<int64_t, int64_t> value;
  if (!node->IsSequence() || node->size() != 2 || !YAML::convert<int64_t>::decode((*node)[0], value.first) ||
      !YAML::convert<int64_t>::decode((*node)[1], value.second) || value.first < least || value.second > most ||
      value.first > value.second) {
    Fail(key, fmt::format("is no range [first, last] within {} to {}", least, most));
    return otherwise;
  }
  return value;
}

std::vector<std::string> Section::Strings(const std::string& key, const std::vector<std::string>& otherwise) {
  std::optional<YAML::Node> node = Find(key);
  if (!node) return otherwise;
  std::vector<std::string> values;
  for (size_t i = 0; node->IsSequence() && i < node->size(); ++i) {
    if ((*node)[i].IsScalar()) values.push_back((*node)[i].Scalar());
  }
  if (!node->IsSequence() || values.size() != node->size()) {
    Fail(key, "is no list of texts");
    return otherwise;
  }
  return values;
}

Section Section::Child(const std::string& key) {
  std::optional<YAML::Node> node = Find(key);
  if (node && !node->IsMap()) {
    Fail(key, "is no mapping");
    node.reset();
  }
  return Section(state_, node ? *node : YAML::Node(YAML::NodeType::Map), PathOf(key));
}

absl::StatusOr<Document> Document::Parse(const std::string& text, const std::string& name) {
  auto state = std::make_shared<Section::State>();
  state->name = name;
  try {
    state->root = YAML::Load(text);
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(fmt::format("{}: {}", name, error.what()));
  }
  if (state->root.IsNull()) state->root = YAML::Node(YAML::NodeType::Map);  // an empty file, or comments alone
  if (!state->root.IsMap()) return absl::InvalidArgumentError(fmt::format("{}: is no mapping of keys", name));
  for (const auto& entry : state->root) {
    if (!entry.first.IsScalar()) return absl::InvalidArgumentError(fmt::format("{}: a key is no text", name));
  }
  return Document(std::move(state));
}

absl::StatusOr<Document> Document::Load(const std::string& path) {
  HK_ASSIGN_OR_RETURN(std::string text, sys::ReadFile(path, 1u << 20));
  return Parse(text, path);
}

Section Document::root() const { return Section(state_, state_->root, ""); }

absl::Status Document::Finish() const {
  std::vector<std::string> mistakes = state_->mistakes;
  std::set<std::string> unread;
  FindUnread(state_->root, "", state_->read, unread);
  for (const std::string& key : unread) mistakes.push_back(fmt::format("unknown key '{}'", key));
  if (mistakes.empty()) return absl::OkStatus();
  std::string more;
  if (mistakes.size() > kMistakesSaid) {
    more = fmt::format("; and {} more", mistakes.size() - kMistakesSaid);
    mistakes.resize(kMistakesSaid);
  }
  return absl::InvalidArgumentError(fmt::format("{}: {}{}", state_->name, fmt::join(mistakes, "; "), more));
}

}  // namespace heterok8s::config
