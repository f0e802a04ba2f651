// Typed access to the fields of a JSON object, for the parsers of this folder.
//
// Each reader leaves `out` alone when the key is absent or null, and fails with kInvalidConfig and the key's full name
// ("runtimeConfig.portMappings[1].hostPort") when the value has another type or is out of range. Nothing throws.
// Threading: pure. Ownership: borrows the object for the call.
//
//   HK_RETURN_IF_ERROR(ReadString(json, "cniVersion", /*prefix=*/"", config.cni_version));
#pragma once

#include <fmt/format.h>

#include "common/cni/types.h"
#include "common/json/whole.h"

namespace heterok8s::cni {

using Json = nlohmann::json;

inline absl::Status WrongField(const std::string& where, std::string_view problem) {
  return MakeError(kInvalidConfig, fmt::format("'{}' {}", where, problem));
}

// Null when the key is absent or null.
inline const Json* Find(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

inline std::string Path(const std::string& prefix, const char* key) {
  return prefix.empty() ? key : prefix + "." + key;
}

inline absl::Status ReadString(const Json& object, const char* key, const std::string& prefix, std::string& out) {
  const Json* value = Find(object, key);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_string()) return WrongField(Path(prefix, key), "must be a string");
  out = value->get_ref<const std::string&>();
  return absl::OkStatus();
}

inline absl::Status ReadBool(const Json& object, const char* key, const std::string& prefix, bool& out) {
  const Json* value = Find(object, key);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_boolean()) return WrongField(Path(prefix, key), "must be true or false");
  out = value->get<bool>();
  return absl::OkStatus();
}

inline absl::Status ReadUint(const Json& object, const char* key, const std::string& prefix, uint64_t max,
                             uint64_t& out) {
  const Json* value = Find(object, key);
  if (value == nullptr) return absl::OkStatus();
  absl::StatusOr<uint64_t> number = Whole<uint64_t>(*value, Path(prefix, key), 0, max);
  if (!number.ok()) return MakeError(kInvalidConfig, Message(number.status()));
  out = *number;
  return absl::OkStatus();
}

inline absl::Status ReadStrings(const Json& object, const char* key, const std::string& prefix,
                                std::vector<std::string>& out) {
  const Json* value = Find(object, key);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_array()) return WrongField(Path(prefix, key), "must be a list of strings");
  out.clear();
  for (const Json& item : *value) {
    if (!item.is_string()) return WrongField(Path(prefix, key), "must be a list of strings");
    out.push_back(item.get_ref<const std::string&>());
  }
  return absl::OkStatus();
}

inline absl::Status ReadObject(const Json& object, const char* key, const std::string& prefix, const Json*& out) {
  const Json* value = Find(object, key);
  if (value != nullptr && !value->is_object()) return WrongField(Path(prefix, key), "must be an object");
  out = value;
  return absl::OkStatus();
}

inline absl::Status ReadArray(const Json& object, const char* key, const std::string& prefix, const Json*& out) {
  const Json* value = Find(object, key);
  if (value != nullptr && !value->is_array()) return WrongField(Path(prefix, key), "must be a list");
  out = value;
  return absl::OkStatus();
}

absl::Status ReadDns(const Json& object, const std::string& prefix, Dns& out);

// An address with or without a prefix length; without one it is a host prefix.
absl::StatusOr<IpPrefix> ParseAddressOrPrefix(const std::string& text, const std::string& where);

// Six pairs of hex digits, not a group address; answered in lower case with colons.
absl::StatusOr<std::string> ParseMac(const std::string& text, const std::string& where);

// `forgiving`: for DEL, which must work with whatever the runtime still has: only the document itself, its name and
// its version can fail it, any other field that is wrong counts as absent.
absl::StatusOr<NetworkConfig> ParseConfigText(const std::string& text, bool forgiving);

// CNI_ARGS "KEY=value;KEY=value". `forgiving` as above.
absl::StatusOr<std::map<std::string, std::string>> ParseArgs(const std::string& text, bool forgiving);

bool IsValidName(const std::string& name);

}  // namespace heterok8s::cni
