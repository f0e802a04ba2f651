#include "heteroctl/manifest/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "common/kube/quantity.h"
#include "heteroctl/manifest/documents.h"
#include "heteroctl/manifest/names.h"
#include "heteroctl/manifest/reader.h"

namespace heterok8s::manifest {
namespace {

// What was read is not shown in full: a name has an end.
std::string Shown(const std::string& text) { return text.size() <= 80 ? text : text.substr(0, 77) + "..."; }

std::string CheckedLabel(Reader& reader, const std::string& key, std::string name) {
  if (!IsDnsLabel(name)) {
    reader.Fail(key, fmt::format("'{}' is not a name (up to 63 lower case letters, digits, '-')", Shown(name)));
  }
  return name;
}

std::string ReadLabel(Reader& reader, const std::string& key) {
  return CheckedLabel(reader, key, reader.Required(key));
}

std::string ReadSubdomain(Reader& reader, const std::string& key) {
  std::string name = reader.Required(key);
  if (!IsDnsSubdomain(name)) {
    reader.Fail(key, fmt::format("'{}' is not a name (lower case letters, digits, '-', single dots)", Shown(name)));
  }
  return name;
}

// As kubelet: the Pod's name, cut to what a kernel takes.
std::string HostnameOf(std::string pod_name) {
  if (pod_name.size() > 63) pod_name.resize(63);
  while (!pod_name.empty() && (pod_name.back() == '-' || pod_name.back() == '.')) pod_name.pop_back();
  return pod_name;
}

// YAML is made of printable characters; anything else in an error would reach a terminal as it is.
absl::Status CheckText(const std::string& text, const std::string& source) {
  int line = 1;
  for (unsigned char c : text) {
    line += c == '\n';
    if ((c < 0x20 && c != '\n' && c != '\r' && c != '\t') || c == 0x7f || c == 0xc0 || c == 0xc1 || c >= 0xf5) {
      return absl::InvalidArgumentError(
          fmt::format("{}: line {}: byte {:#04x} cannot be part of a text", source, line, c));
    }
  }
  return absl::OkStatus();
}

SecurityContext ReadSecurity(Reader& reader) {
  SecurityContext security;
  if (reader.Has("runAsUser")) security.run_as_user = reader.Integer("runAsUser", 0, 0, INT32_MAX);
  if (reader.Has("runAsGroup")) security.run_as_group = reader.Integer("runAsGroup", 0, 0, INT32_MAX);
  reader.Text("runAsUser"), reader.Text("runAsGroup");
  security.privileged = reader.Flag("privileged", false);
  security.read_only_root_filesystem = reader.Flag("readOnlyRootFilesystem", false);
  reader.Object("capabilities", [&](Reader& r) {
    security.add_capabilities = r.Texts("add");
    security.drop_capabilities = r.Texts("drop");
  });
  reader.Ignore({"runAsNonRoot", "allowPrivilegeEscalation", "seccompProfile", "appArmorProfile", "seLinuxOptions",
                 "procMount", "fsGroup", "supplementalGroups", "sysctls", "windowsOptions", "fsGroupChangePolicy"});
  return security;
}

int64_t ReadQuantity(Reader& reader, const std::string& key) {
  std::string text = reader.Text(key);
  if (text.empty()) return 0;
  absl::StatusOr<int64_t> milli = kube::ParseMilli(text);
  if (!milli.ok()) reader.Fail(key, Message(milli.status()));
  return *milli;
}

Resources ReadResources(Reader& reader) {
  Resources resources;
  reader.Object("limits", [&](Reader& r) {
    resources.cpu_limit_milli = ReadQuantity(r, "cpu");
    resources.memory_limit_bytes = ReadQuantity(r, "memory") / 1000;
    r.Ignore({"ephemeral-storage"});
  });
  reader.Object("requests", [&](Reader& r) {
    resources.cpu_request_milli = ReadQuantity(r, "cpu");
    ReadQuantity(r, "memory");  // a request only matters to a scheduler
    r.Ignore({"ephemeral-storage"});
  });
  return resources;
}

EnvVar ReadEnv(Reader& reader) {
  EnvVar variable{.name = reader.Required("name"), .value = reader.Text("value"), .field_path = ""};
  reader.Object("valueFrom", [&](Reader& from) {
    from.Object("fieldRef", [&](Reader& ref) {
      variable.field_path = ref.Required("fieldPath");
      ref.Text("apiVersion");
    });
    for (const char* key : {"configMapKeyRef", "secretKeyRef", "resourceFieldRef"}) {
      if (from.Has(key)) from.Fail(key, "is not supported here; write the value itself");
    }
  });
  static const std::set<std::string> kFields = {"metadata.name", "metadata.namespace", "metadata.uid", "status.podIP",
                                                "spec.nodeName"};
  if (!variable.field_path.empty() && !kFields.contains(variable.field_path)) {
    reader.Fail("valueFrom.fieldRef.fieldPath",
                fmt::format("'{}' is not supported; use one of {}", variable.field_path, fmt::join(kFields, ", ")));
  }
  return variable;
}

ContainerPort ReadPort(Reader& reader) {
  ContainerPort port;
  port.name = reader.Text("name");
  port.container_port = static_cast<uint16_t>(reader.Integer("containerPort", 0, 1, 65535));
  if (port.container_port == 0) reader.Fail("containerPort", "is required");
  port.host_port = static_cast<uint16_t>(reader.Integer("hostPort", 0, 0, 65535));
  port.host_ip = reader.Text("hostIP");
  if (!port.host_ip.empty() && !IpAddress::Parse(port.host_ip).ok()) {
    reader.Fail("hostIP", fmt::format("'{}' is not an IP address", port.host_ip));
  }
  absl::StatusOr<Protocol> protocol = ParseProtocol(reader.Text("protocol", "TCP"));
  if (!protocol.ok()) reader.Fail("protocol", Message(protocol.status()));
  port.protocol = *protocol;
  return port;
}

Container ReadContainer(Reader& reader, bool is_init) {
  Container container;
  container.name = ReadLabel(reader, "name");
  container.image = reader.Required("image");
  container.working_dir = reader.Text("workingDir");
  container.command = reader.Texts("command");
  container.args = reader.Texts("args");
  container.tty = reader.Flag("tty", false);
  container.stdin = reader.Flag("stdin", false);
  reader.Each("env", [&](Reader& r) { container.env.push_back(ReadEnv(r)); });
  reader.Each("ports", [&](Reader& r) { container.ports.push_back(ReadPort(r)); });
  reader.Each("volumeMounts", [&](Reader& r) {
    container.mounts.push_back({.name = r.Required("name"),
                                .mount_path = r.Required("mountPath"),
                                .sub_path = r.Text("subPath"),
                                .read_only = r.Flag("readOnly", false)});
    r.Ignore({"mountPropagation", "recursiveReadOnly", "subPathExpr"});
  });
  reader.Object("securityContext", [&](Reader& r) { container.security = ReadSecurity(r); });
  reader.Object("resources", [&](Reader& r) { container.resources = ReadResources(r); });
  std::string restart = reader.Text("restartPolicy");
  if (!restart.empty() && !(is_init && restart == "Always")) {
    reader.Fail("restartPolicy", fmt::format("'{}': only Always, and only on an init container", restart));
  }
  container.is_sidecar = !restart.empty();
  for (const char* key : {"envFrom", "volumeDevices"}) {
    if (reader.Has(key)) reader.Fail(key, "is not supported here");
  }
  reader.Ignore({"livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "imagePullPolicy",
                 "terminationMessagePath", "terminationMessagePolicy", "stdinOnce", "resizePolicy"});
  return container;
}

Volume ReadVolume(Reader& reader) {
  Volume volume;
  volume.name = ReadLabel(reader, "name");
  int kinds = 0;
  reader.Object("emptyDir", [&](Reader& r) {
    ++kinds;
    std::string medium = r.Text("medium");
    if (!medium.empty() && medium != "Memory")
      r.Fail("medium", fmt::format("'{}': use Memory or leave it out", medium));
    volume.in_memory = medium == "Memory";
    r.Ignore({"sizeLimit"});
  });
  reader.Object("configMap", [&](Reader& r) {
    ++kinds;
    volume.kind = Volume::Kind::kConfigMap;
    volume.config_map = r.Required("name");
    volume.default_mode = static_cast<int>(r.Integer("defaultMode", 0644, 0, 0777));
    r.Each("items", [&](Reader& item) {
      volume.items[item.Required("key")] = item.Required("path");
      item.Ignore({"mode"});
    });
    r.Ignore({"optional"});
  });
  reader.Object("hostPath", [&](Reader& r) {
    ++kinds;
    volume.kind = Volume::Kind::kHostPath;
    volume.host_path = r.Required("path");
    r.Ignore({"type"});
  });
  if (kinds != 1) reader.Fail("", "needs exactly one of emptyDir, configMap, hostPath");
  return volume;
}

Pod ReadPod(Reader& reader) {
  Pod pod;
  reader.Text("apiVersion"), reader.Text("kind");
  reader.Object("metadata", [&](Reader& r) {
    pod.name = ReadSubdomain(r, "name");
    if (std::string name = r.Text("namespace"); !name.empty()) pod.pod_namespace = CheckedLabel(r, "namespace", name);
    pod.uid = r.Text("uid");
    if (!pod.uid.empty() && !IsUid(pod.uid)) {
      r.Fail("uid", fmt::format("'{}' is not a UID (up to 63 letters, digits, '-'); leave it out", Shown(pod.uid)));
    }
    pod.labels = r.Map("labels");
    pod.annotations = r.Map("annotations");
    r.Ignore({"creationTimestamp", "generateName", "ownerReferences", "resourceVersion", "finalizers", "generation"});
  });
  if (pod.name.empty()) reader.Fail("metadata.name", "is required");
  if (!reader.Has("spec")) reader.Fail("spec", "is required");
  reader.Object("spec", [&](Reader& r) {
    r.Each("initContainers", [&](Reader& c) { pod.init_containers.push_back(ReadContainer(c, true)); });
    r.Each("containers", [&](Reader& c) { pod.containers.push_back(ReadContainer(c, false)); });
    r.Each("volumes", [&](Reader& v) { pod.volumes.push_back(ReadVolume(v)); });
    pod.host_network = r.Flag("hostNetwork", false);
    pod.host_pid = r.Flag("hostPID", false);
    pod.host_ipc = r.Flag("hostIPC", false);
    pod.share_process_namespace = r.Flag("shareProcessNamespace", false);
    std::string hostname = r.Text("hostname");
    pod.hostname = hostname.empty() ? HostnameOf(pod.name) : CheckedLabel(r, "hostname", hostname);
    pod.termination_grace_seconds = r.Integer("terminationGracePeriodSeconds", 30, 0, 86400);
    r.Object("securityContext", [&](Reader& s) { pod.security = ReadSecurity(s); });
    r.Ignore({"restartPolicy",
              "nodeName",
              "nodeSelector",
              "affinity",
              "tolerations",
              "serviceAccountName",
              "serviceAccount",
              "automountServiceAccountToken",
              "dnsPolicy",
              "dnsConfig",
              "hostAliases",
              "subdomain",
              "priorityClassName",
              "priority",
              "schedulerName",
              "enableServiceLinks",
              "imagePullSecrets",
              "runtimeClassName",
              "topologySpreadConstraints",
              "activeDeadlineSeconds",
              "readinessGates",
              "preemptionPolicy",
              "overhead",
              "setHostnameAsFQDN",
              "os",
              "hostUsers",
              "resources"});
    if (r.Has("ephemeralContainers")) r.Fail("ephemeralContainers", "cannot be part of a new Pod");
    if (pod.containers.empty()) r.Fail("containers", "needs at least one container");
  });
  reader.Ignore({"status"});
  return pod;
}

// References between the parts of a Pod, which no single field shows.
void CheckReferences(const Manifest& manifest) {
  const Pod& pod = manifest.pod;
  std::set<std::string> volumes, names;
  for (const Volume& volume : pod.volumes) {
    if (!volumes.insert(volume.name).second)
      throw FieldError(fmt::format("spec.volumes: '{}' is there twice", volume.name));
    if (volume.kind != Volume::Kind::kConfigMap) continue;
    auto found = manifest.config_maps.find(volume.config_map);
    if (found == manifest.config_maps.end()) {
      throw FieldError(
          fmt::format("spec.volumes '{}': no ConfigMap '{}' in this file", volume.name, volume.config_map));
    }
    for (const auto& [key, path] : volume.items) {
      if (!found->second.contains(key)) {
        throw FieldError(
            fmt::format("spec.volumes '{}': ConfigMap '{}' has no key '{}'", volume.name, volume.config_map, key));
      }
    }
  }
  auto check = [&](const Container& container) {
    if (!names.insert(container.name).second)
      throw FieldError(fmt::format("container '{}' is there twice", container.name));
    for (const VolumeMount& mount : container.mounts) {
      if (!volumes.contains(mount.name)) {
        throw FieldError(
            fmt::format("container '{}': volumeMounts '{}' is no volume of this Pod", container.name, mount.name));
      }
    }
  };
  std::for_each(pod.init_containers.begin(), pod.init_containers.end(), check);
  std::for_each(pod.containers.begin(), pod.containers.end(), check);
}

Manifest ReadDocuments(const std::vector<YAML::Node>& documents) {
  Manifest manifest;
  bool have_pod = false;
  for (const YAML::Node& document : documents) {
    if (document.IsNull()) continue;
    Reader reader(document, "", manifest.warnings);
    std::string kind = reader.Required("kind");
    if (kind == "Pod") {
      if (have_pod) throw FieldError("more than one Pod in this file; run them one by one");
      have_pod = true;
      manifest.pod = ReadPod(reader);
    } else if (kind == "ConfigMap") {
      reader.Text("apiVersion");
      std::string name;
      reader.Object("metadata", [&](Reader& r) {
        name = ReadSubdomain(r, "name");
        r.Ignore({"namespace", "labels", "annotations", "creationTimestamp"});
      });
      manifest.config_maps[name] = reader.Map("data");
      if (reader.Has("binaryData")) reader.Fail("binaryData", "is not supported here");
      reader.Ignore({"immutable"});
    } else {
      throw FieldError(fmt::format("kind: '{}' cannot be run here; use Pod and ConfigMap", kind));
    }
    reader.Finish();
  }
  if (!have_pod) throw FieldError("no document of kind Pod");
  CheckReferences(manifest);
  return manifest;
}

}  // namespace

absl::StatusOr<Manifest> ParseManifest(const std::string& text, const std::string& source) {
  HK_RETURN_IF_ERROR(CheckText(text, source));
  try {
    return ReadDocuments(LoadDocuments(text));
  } catch (const FieldError& error) {
    return absl::InvalidArgumentError(fmt::format("{}: {}", source, error.what()));
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(fmt::format("{}: line {}: {}", source, error.mark.line + 1, error.msg));
  }
}

}  // namespace heterok8s::manifest
