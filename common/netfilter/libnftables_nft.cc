#include "common/netfilter/libnftables_nft.h"

#include <fmt/format.h>
#include <linux/netlink.h>
#include <nftables/libnftables.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string_view>

#include "common/json/whole.h"
#include "common/netfilter/reaper.h"
#include "common/sys/chandle.h"
#include "common/sys/unique_fd.h"

namespace heterok8s::netfilter {
namespace {

using Json = nlohmann::json;
using Context = sys::CHandle<nft_ctx, nft_ctx_free>;

// libnftables keeps its input descriptor and its cache of interface names in globals. That cache is also the reason
// why scripts name interfaces by iifname and oifname: `iif eth0` may get the index of another namespace's eth0.
std::mutex& LibraryLock() {
  static std::mutex lock;
  return lock;
}

// libnftables reports failures as text only. It ends in strerror() of what the kernel said.
absl::StatusCode CodeOf(std::string_view text) {
  auto says = [&](int error) { return text.find(std::strerror(error)) != std::string_view::npos; };
  if (says(ENOENT)) return absl::StatusCode::kNotFound;
  if (says(EEXIST)) return absl::StatusCode::kAlreadyExists;
  if (says(EPERM) || says(EACCES)) return absl::StatusCode::kPermissionDenied;
  if (says(EBUSY)) return absl::StatusCode::kFailedPrecondition;
  if (says(ENOSPC) || says(ENOMEM) || says(ENOBUFS)) return absl::StatusCode::kResourceExhausted;
  return absl::StatusCode::kInvalidArgument;
}

std::string Scalar(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("prefix")) {
    return fmt::format("{}/{}", Scalar(value["prefix"].at("addr")), value["prefix"].at("len").dump());
  }
  return value.dump();
}

std::vector<std::string> Parts(const Json& value) {
  std::vector<std::string> parts;
  if (value.is_object() && value.contains("concat")) {
    for (const Json& part : value["concat"]) parts.push_back(Scalar(part));
  } else {
    parts.push_back(Scalar(value));
  }
  return parts;
}

// A set element is KEY, or {"elem": {"val": KEY, "comment": …}}; a map element is [that, VALUE].
NftElement ElementOf(const Json& json) {
  NftElement element;
  const Json& key = json.is_array() ? json[0] : json;
  if (key.is_object() && key.contains("elem")) {
    element.key = Parts(key["elem"].at("val"));
    element.comment = key["elem"].value("comment", "");
  } else {
    element.key = Parts(key);
  }
  if (json.is_array()) element.value = Parts(json[1]);
  return element;
}

class LibnftablesNft : public Nft {
 public:
  LibnftablesNft(Context context, sys::UniqueFd canary) : context_(std::move(context)), canary_(std::move(canary)) {}
  ~LibnftablesNft() override {
    // The canary dies first and takes the wait described in reaper.h, so the context ends at once under the lock.
    auto context = std::make_shared<Context>(std::move(context_));
    CloseLater([context, canary = std::make_shared<sys::UniqueFd>(std::move(canary_))] {
      canary->reset();
      std::lock_guard lock(LibraryLock());
      context->reset();
    });
  }

  absl::Status Run(const std::string& script) override { return Command(script, 0).status(); }

  absl::StatusOr<std::vector<NftElement>> Elements(const std::string& table, const std::string& name) override {
    std::vector<NftElement> elements;
    auto collect = [&](const Json& object) { Collect(object, [&](const std::string&) { return &elements; }); };
    // `list set` refuses maps and `list map` refuses sets.
    absl::Status listed = EachObject(fmt::format("list set {} {}", table, name), collect);
    if (!listed.ok()) HK_RETURN_IF_ERROR(EachObject(fmt::format("list map {} {}", table, name), collect));
    std::sort(elements.begin(), elements.end());
    return elements;
  }

  absl::StatusOr<std::map<std::string, std::vector<NftElement>>> AllElements(const std::string& table) override {
    std::map<std::string, std::vector<NftElement>> all;
    HK_RETURN_IF_ERROR(EachObject(fmt::format("list table {}", table), [&](const Json& object) {
      Collect(object, [&](const std::string& name) { return &all[name]; });
    }));
    for (auto& [name, elements] : all) std::sort(elements.begin(), elements.end());
    return all;
  }

  absl::StatusOr<std::map<std::string, NftCounter>> Counters(const std::string& table) override {
    std::map<std::string, NftCounter> counters;
    HK_RETURN_IF_ERROR(EachObject(fmt::format("list counters table {}", table), [&](const Json& object) {
      if (!object.contains("counter")) return;
      const Json& counter = object["counter"];
      counters[counter.at("name")] = {WholeAt<uint64_t>(counter, "packets"), WholeAt<uint64_t>(counter, "bytes")};
    }));
    return counters;
  }

  absl::StatusOr<std::string> Print(const std::string& table) override {
    return Command(fmt::format("list table {}", table), NFT_CTX_OUTPUT_STATELESS | NFT_CTX_OUTPUT_TERSE);
  }

 private:
  // Adds the elements of a set or a map, if `object` is one, to where `into` says for its name.
  template <typename Into>
  static void Collect(const Json& object, Into into) {
    for (const char* kind : {"set", "map"}) {
      if (!object.contains(kind)) continue;
      std::vector<NftElement>* elements = into(object[kind].at("name").template get<std::string>());
      if (!object[kind].contains("elem")) continue;
      for (const Json& element : object[kind]["elem"]) elements->push_back(ElementOf(element));
    }
  }

  absl::StatusOr<std::string> Command(const std::string& command, unsigned output_flags) {
    std::lock_guard lock(LibraryLock());
    nft_ctx_output_set_flags(context_.get(), output_flags);
    int failed = nft_run_cmd_from_buffer(context_.get(), command.c_str());
    // Reading a buffer also empties it, so both are read every time.
    std::string output = nft_ctx_get_output_buffer(context_.get());
    std::string error = nft_ctx_get_error_buffer(context_.get());
    if (!failed) return output;
    while (!error.empty() && error.back() == '\n') error.pop_back();
    return absl::Status(CodeOf(error), fmt::format("nft: {}", error));
  }

  template <typename Fn>
  absl::Status EachObject(const std::string& command, Fn fn) {
    HK_ASSIGN_OR_RETURN(std::string text, Command(command, NFT_CTX_OUTPUT_JSON | NFT_CTX_OUTPUT_NUMERIC_PRIO));
    try {
      Json json = Json::parse(text);
      for (const Json& object : json.at("nftables")) fn(object);
    } catch (const std::exception& e) {
      return absl::InternalError(fmt::format("nft: '{}' printed what we cannot read: {}", command, e.what()));
    }
    return absl::OkStatus();
  }

  Context context_;
  sys::UniqueFd canary_;  // a netfilter socket of the same namespace
};

absl::StatusOr<sys::UniqueFd> OpenCanary() {
  sys::UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
  sockaddr_nl any{.nl_family = AF_NETLINK};
  if (!fd.valid() || bind(fd.get(), reinterpret_cast<sockaddr*>(&any), sizeof any) != 0) {
    return ErrnoToStatus(errno, "nft: open a netfilter netlink socket");
  }
  return fd;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Nft>> OpenNft() {
  // libnftables ends the process when it cannot open its socket; if there is a reason, it shows here first.
  HK_ASSIGN_OR_RETURN(sys::UniqueFd canary, OpenCanary());
  std::unique_lock lock(LibraryLock());
  Context context(nft_ctx_new(NFT_CTX_DEFAULT));
  if (!context) return absl::ResourceExhaustedError("nft: no memory for a libnftables context");
  if (nft_ctx_buffer_output(context.get()) != 0 || nft_ctx_buffer_error(context.get()) != 0) {
    context.reset();
    return absl::ResourceExhaustedError("nft: no memory for libnftables' output");
  }
  lock.unlock();
  return std::unique_ptr<Nft>(std::make_unique<LibnftablesNft>(std::move(context), std::move(canary)));
}

}  // namespace heterok8s::netfilter
