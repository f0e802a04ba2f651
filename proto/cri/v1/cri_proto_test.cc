// Our part of CRI has the numbers and types of the published file, where that is on this machine: at the path in
// CRI_API_PROTO (tools/published, which e2e/run calls), or in the module cache of Go.
#include <glob.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <optional>

#include "common/sys/file.h"
#include "common/sys/process.h"
#include "common/testing/matchers.h"
#include "proto/cri/v1/cri.pb.h"

namespace pb = google::protobuf;

namespace {

std::optional<std::string> FindPublishedFile() {
  if (const char* path = std::getenv("CRI_API_PROTO")) return path;
  const char* gopath = std::getenv("GOPATH");
  const char* home = std::getenv("HOME");
  std::string root = gopath ? gopath : std::string(home ? home : "/root") + "/go";
  glob_t found = {};
  std::optional<std::string> path;
  if (glob((root + "/pkg/mod/k8s.io/cri-api@*/pkg/apis/runtime/v1/api.proto").c_str(), 0, nullptr, &found) == 0) {
    path = found.gl_pathv[found.gl_pathc - 1];
  }
  globfree(&found);
  return path;
}

// protoc's view of the published file. protoc 3.21 does not know the option debug_redact, which changes nothing on the
// wire, so it is taken out first.
pb::FileDescriptorProto Compile(const std::string& path) {
  auto text = heterok8s::sys::ReadFile(path);
  REQUIRE_OK(text);
  const std::string redact = " [debug_redact = true]";
  for (size_t at; (at = text->find(redact)) != std::string::npos;) text->erase(at, redact.size());
  char folder[] = "/tmp/hk-cri-proto-XXXXXX";
  REQUIRE(mkdtemp(folder) != nullptr);
  std::string file = std::string(folder) + "/api.proto", set = std::string(folder) + "/api.set";
  REQUIRE_OK(heterok8s::sys::WriteFileAtomic(file, *text, 0600));
  auto run = heterok8s::sys::Run({.argv = {"protoc", std::string("-I") + folder, "--descriptor_set_out=" + set, file}});
  REQUIRE_OK(run);
  INFO(run->stderr_text);
  REQUIRE(run->exit_code == 0);
  auto bytes = heterok8s::sys::ReadFile(set);
  std::filesystem::remove_all(folder);
  REQUIRE_OK(bytes);
  pb::FileDescriptorSet files;
  REQUIRE(files.ParseFromString(*bytes));
  return files.file(0);
}

const pb::DescriptorProto* FindMessage(const pb::FileDescriptorProto& file, const std::string& name) {
  for (const auto& message : file.message_type()) {
    if (message.name() == name) return &message;
  }
  return nullptr;
}

void Compare(const pb::DescriptorProto& ours, const pb::DescriptorProto& theirs) {
  for (const pb::FieldDescriptorProto& field : ours.field()) {
    INFO(ours.name() << "." << field.name());
    const pb::FieldDescriptorProto* same = nullptr;
    for (const pb::FieldDescriptorProto& other : theirs.field()) {
      if (other.name() == field.name()) same = &other;
    }
    REQUIRE(same != nullptr);
    CHECK(field.number() == same->number());
    CHECK(field.label() == same->label());
    CHECK(field.type() == same->type());
    CHECK(field.type_name() == same->type_name());
  }
  for (const pb::DescriptorProto& nested : ours.nested_type()) {
    INFO(ours.name() << "." << nested.name());
    bool found = false;
    for (const pb::DescriptorProto& other : theirs.nested_type()) {
      if (other.name() != nested.name()) continue;
      found = true;
      Compare(nested, other);
    }
    CHECK(found);
  }
}

}  // namespace

TEST_CASE("our part of CRI has the published numbers, names and types") {
  std::optional<std::string> path = FindPublishedFile();
  if (!path) {
    WARN("SKIPPED: no published api.proto on this machine (tools/published)");
    return;
  }
  pb::FileDescriptorProto theirs = Compile(*path);
  pb::FileDescriptorProto ours;
  runtime::v1::VersionRequest::descriptor()->file()->CopyTo(&ours);

  CHECK(ours.package() == theirs.package());
  for (const pb::DescriptorProto& message : ours.message_type()) {
    INFO(message.name());
    const pb::DescriptorProto* other = FindMessage(theirs, message.name());
    REQUIRE(other != nullptr);
    Compare(message, *other);
  }
  for (const pb::EnumDescriptorProto& value : ours.enum_type()) {
    INFO(value.name());
    bool found = false;
    for (const pb::EnumDescriptorProto& other : theirs.enum_type()) {
      if (other.name() != value.name()) continue;
      found = true;
      for (int i = 0; i < value.value_size(); ++i) {
        CHECK(value.value(i).name() == other.value(i).name());
        CHECK(value.value(i).number() == other.value(i).number());
      }
    }
    CHECK(found);
  }
  for (const pb::ServiceDescriptorProto& service : ours.service()) {
    for (const pb::MethodDescriptorProto& method : service.method()) {
      INFO(service.name() << "." << method.name());
      bool found = false;
      for (const pb::ServiceDescriptorProto& other : theirs.service()) {
        for (const pb::MethodDescriptorProto& candidate : other.method()) {
          if (other.name() != service.name() || candidate.name() != method.name()) continue;
          found = true;
          CHECK(method.input_type() == candidate.input_type());
          CHECK(method.output_type() == candidate.output_type());
        }
      }
      CHECK(found);
    }
  }
}
