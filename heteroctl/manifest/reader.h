// A YAML mapping that knows its path and which of its keys were read.
//
// Purpose: messages that name the field, and no key passed over in silence: Finish() reports what nobody asked for.
// Threading: one thread. Ownership: borrows nothing; YAML nodes are counted references. Errors: thrown as FieldError
// inside this folder; ParseManifest turns it into a Status.
//
//   std::string name = reader.Required("name");
//   reader.Object("securityContext", [&](Reader& r) { security = ReadSecurity(r); });
//   reader.Finish();
#pragma once

#include <yaml-cpp/yaml.h>

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

namespace heterok8s::manifest {

class FieldError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Reader {
 public:
  // `warnings` outlives the reader.
  Reader(YAML::Node node, std::string path, std::vector<std::string>& warnings);

  bool Has(const std::string& key) const;
  std::string Text(const std::string& key, const std::string& fallback = "");
  std::string Required(const std::string& key);
  int64_t Integer(const std::string& key, int64_t fallback, int64_t lowest, int64_t highest);
  bool Flag(const std::string& key, bool fallback);
  std::vector<std::string> Texts(const std::string& key);
  std::map<std::string, std::string> Map(const std::string& key);
  // Calls `fn` for the mapping below `key`, if there is one, or for each element of the list below it.
  void Object(const std::string& key, const std::function<void(Reader&)>& fn);
  void Each(const std::string& key, const std::function<void(Reader&)>& fn);
  // Keys that Kubernetes knows and that change nothing here: a warning when present.
  void Ignore(std::initializer_list<const char*> keys);
  // Every key must have been asked for.
  void Finish();

  [[noreturn]] void Fail(const std::string& key, const std::string& message) const;
  const std::string& path() const { return path_; }

 private:
  YAML::Node Take(const std::string& key);
  std::string PathOf(const std::string& key) const;

  YAML::Node node_;
  std::string path_;
  std::vector<std::string>& warnings_;
  std::set<std::string> taken_;
};

}  // namespace heterok8s::manifest
