#include "common/netfilter/fake_nft.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <sstream>

namespace heterok8s::netfilter {
namespace {

absl::Status NoSuch(const std::string& what) {
  return absl::NotFoundError(fmt::format("nft: {}: No such file or directory", what));
}

std::vector<std::string> Words(const std::string& line) {
  std::istringstream stream(line);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

std::string Join(const std::vector<std::string>& words, size_t from) {
  return fmt::format("{}",
                     fmt::join(words.begin() + static_cast<ptrdiff_t>(std::min(from, words.size())), words.end(), " "));
}

// "tcp . 80 comment "x" : 10.0.0.1 . 8080"
NftElement ParseElement(const std::vector<std::string>& words) {
  NftElement element;
  std::vector<std::string>* part = &element.key;
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i] == ".") continue;
    if (words[i] == ":") {
      part = &element.value;
    } else if (words[i] == "comment" && i + 1 < words.size()) {
      std::string quoted = words[++i];
      element.comment = quoted.substr(1, quoted.size() - 2);
    } else {
      part->push_back(words[i]);
    }
  }
  return element;
}

}  // namespace

absl::Status FakeNft::Run(const std::string& script) {
  if (fail_next_) {
    absl::StatusCode code = *fail_next_;
    fail_next_.reset();
    return absl::Status(code, "nft: made to fail");
  }
  Tables next = tables_;
  std::istringstream lines(script);
  for (std::string line; std::getline(lines, line);) HK_RETURN_IF_ERROR(RunLine(line, next));
  tables_ = std::move(next);
  return absl::OkStatus();
}

absl::Status FakeNft::RunLine(const std::string& line, Tables& tables) {
  std::vector<std::string> words = Words(line);
  if (words.empty()) return absl::OkStatus();
  bool exclusive = words[0] == "create", add = words[0] == "add" || exclusive;
  bool remove = words[0] == "delete", flush = words[0] == "flush";
  if ((!add && !remove && !flush) || words.size() < 4) {
    return absl::InvalidArgumentError(fmt::format("nft: syntax error in '{}'", line));
  }
  const std::string& kind = words[1];
  std::string name = words[2] + " " + words[3];
  auto table = tables.find(name);
  if (kind == "table") {
    if (add) {
      if (exclusive && table != tables.end())
        return absl::AlreadyExistsError(fmt::format("nft: table {}: File exists", name));
      tables.try_emplace(name);
      return absl::OkStatus();
    }
    if (table == tables.end()) return NoSuch("table " + name);
    if (remove)
      tables.erase(table);
    else
      table->second.rules.clear();
    return absl::OkStatus();
  }
  if (table == tables.end()) return NoSuch("table " + name);
  if (words.size() < 5) return absl::InvalidArgumentError(fmt::format("nft: syntax error in '{}'", line));
  Table& t = table->second;
  const std::string& object = words[4];
  bool known = kind == "counter" ? t.counters.contains(object) : t.declared.contains(object);
  if (kind == "counter" && add) {
    t.counters.try_emplace(object);
  } else if ((kind == "set" || kind == "map" || kind == "chain") && add) {
    if (exclusive && known) return absl::AlreadyExistsError(fmt::format("nft: {} {}: File exists", kind, object));
    t.declared.try_emplace(object, fmt::format("{} {}", kind, Join(words, 4)));
  } else if (!known) {
    return NoSuch(kind + " " + object);
  } else if (kind == "element") {
    return ElementLine(add, exclusive, words, t);
  } else if (kind == "rule" && add) {
    t.rules[object].push_back(Join(words, 5));
  } else if (flush) {
    kind == "chain" ? void(t.rules.erase(object)) : void(t.elements.erase(object));
  } else if (remove) {
    t.declared.erase(object);
    t.counters.erase(object);
    t.elements.erase(object);
    t.rules.erase(object);
  } else {
    return absl::InvalidArgumentError(fmt::format("nft: syntax error in '{}'", line));
  }
  return absl::OkStatus();
}

// words: add element inet t NAME { tcp . 80, udp . 53 }
absl::Status FakeNft::ElementLine(bool add, bool exclusive, const std::vector<std::string>& words, Table& table) {
  std::set<NftElement>& elements = table.elements[words[4]];
  std::vector<std::string> one;
  auto finish = [&]() -> absl::Status {
    NftElement element = ParseElement(one);
    one.clear();
    auto same =
        std::find_if(elements.begin(), elements.end(), [&](const NftElement& e) { return e.key == element.key; });
    if (!add) {
      if (same == elements.end()) return NoSuch("element " + fmt::format("{}", fmt::join(element.key, " . ")));
      elements.erase(same);
      return absl::OkStatus();
    }
    if (same == elements.end()) {
      elements.insert(element);
    } else if (exclusive || same->value != element.value) {
      return absl::AlreadyExistsError(fmt::format("nft: element {}: File exists", fmt::join(element.key, " . ")));
    }
    return absl::OkStatus();
  };
  for (size_t i = 6; i + 1 < words.size(); ++i) {  // between the braces
    std::string word = words[i];
    bool last = word.ends_with(',');
    if (last) word.pop_back();
    one.push_back(word);
    if (last) HK_RETURN_IF_ERROR(finish());
  }
  return finish();
}

absl::StatusOr<std::vector<NftElement>> FakeNft::Elements(const std::string& table, const std::string& name) {
  auto found = tables_.find(table);
  if (found == tables_.end() || !found->second.declared.contains(name)) return NoSuch(table + " " + name);
  const std::set<NftElement>& elements = found->second.elements[name];
  return std::vector<NftElement>(elements.begin(), elements.end());
}

absl::StatusOr<std::map<std::string, std::vector<NftElement>>> FakeNft::AllElements(const std::string& table) {
  auto found = tables_.find(table);
  if (found == tables_.end()) return NoSuch("table " + table);
  std::map<std::string, std::vector<NftElement>> all;
  for (const auto& [name, declaration] : found->second.declared) {
    if (declaration.starts_with("chain")) continue;
    const std::set<NftElement>& elements = found->second.elements[name];
    all[name] = {elements.begin(), elements.end()};
  }
  return all;
}

absl::StatusOr<std::map<std::string, NftCounter>> FakeNft::Counters(const std::string& table) {
  auto found = tables_.find(table);
  if (found == tables_.end()) return NoSuch("table " + table);
  return found->second.counters;
}

absl::StatusOr<std::string> FakeNft::Print(const std::string& table) {
  auto found = tables_.find(table);
  if (found == tables_.end()) return NoSuch("table " + table);
  std::string text = fmt::format("table {}\n", table);
  for (const auto& [name, counter] : found->second.counters) text += fmt::format("counter {}\n", name);
  for (const auto& [name, declaration] : found->second.declared) {
    text += declaration + "\n";
    for (const std::string& rule : found->second.rules[name]) text += "  " + rule + "\n";
  }
  return text;
}

void FakeNft::Hit(const std::string& table, const std::string& counter, NftCounter by) {
  NftCounter& sum = tables_[table].counters[counter];
  sum.packets += by.packets;
  sum.bytes += by.bytes;
}

}  // namespace heterok8s::netfilter
