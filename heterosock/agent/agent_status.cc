// What people see: the answers to heterosockctl, the events it may follow, the sums for metrics.
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "common/json/whole.h"
#include "heterosock/agent/agent_impl.h"

namespace heterok8s::heterosock::agent {
namespace {

using nlohmann::json;
constexpr size_t kMaxRequest = 4096;
constexpr size_t kMaxTraceBacklog = 1 << 20;  // bytes

int64_t UnixMs(std::chrono::system_clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
}

constexpr size_t kChannelsPerTurn = 128;  // that an answer goes on with, once what was said has been read

json SideJson(const Channel& channel, int side, const SideCounters* counters, bool with_counters) {
  const ChannelEnd& end = channel.ends[side];
  json j = {{"pid", end.label.pid},
            {"command", end.label.command},
            {"pod_uid", end.domain.pod_uid},
            {"cgroup", end.domain.cgroup},
            {"pu", end.on_other_pu ? "other" : "this"},
            {"alive", end.alive()}};
  if (end.label.local.port != 0) {
    j["local"] = end.label.local.ToString();
    j["remote"] = end.label.remote.ToString();
  }
  if (counters == nullptr) return j;
  const char* state = counters->back_on_tcp ? "back on TCP" : counters->switched ? "shared" : "TCP";
  j["sending_on"] = state;
  if (counters->fenced != 0) j["fenced"] = protocol::ReasonText(static_cast<Reason>(counters->fenced));
  if (!with_counters) return j;
  j["counters"] = {{"sent", counters->sent},         {"received", counters->received},
                   {"tcp_sent", counters->tcp_sent}, {"tcp_received", counters->tcp_received},
                   {"sends", counters->sends},       {"receives", counters->receives},
                   {"sleeps", counters->sleeps},     {"rings", counters->rings},
                   {"spins", counters->spins},       {"full", counters->full}};
  return j;
}

json ChannelJson(const Channel& channel, bool with_counters) {
  const auto counters = ReadCounters(channel.memory.get());
  json ends = json::array();
  for (int side = 0; side < 2; ++side)
    ends.push_back(SideJson(channel, side, counters.ok() ? &(*counters)[side] : nullptr, with_counters));
  return {{"channel", channel.name.id},
          {"since_unix_ms", UnixMs(channel.since)},
          {"matched_by", channel.by_token ? "token" : "addresses"},
          {"memory_bytes", UsedBytes(channel.memory.get())},
          {"ends", ends}};
}

std::string Text(const json& j) { return j.dump(-1, ' ', false, json::error_handler_t::replace); }

}  // namespace

json Agent::Impl::Totals() {
  LookAround();
  json declines = json::object();
  for (const auto& [reason, count] : counters_.declines) declines[protocol::ReasonText(reason)] = count;
  return {{"processes", sessions_.size()},
          {"channels", channels_.size()},
          {"waiting_offers", pairing_.waiting()},
          {"memory_bytes", used_bytes_},
          {"shared_bytes", counters_.shared_bytes},
          {"sessions", counters_.sessions},
          {"offers", counters_.offers},
          {"pairs", counters_.pairs},
          {"pairs_by_token", counters_.pairs_by_token},
          {"releases", counters_.releases},
          {"resumes", counters_.resumes},
          {"fences", counters_.fences},
          {"handed_back_bytes", counters_.handed_back->load()},
          {"malformed", counters_.malformed},
          {"refused", counters_.refused},
          {"declines", declines},
          {"stays_on_tcp", stays_on_tcp_},
          {"pu_link", link_ != nullptr}};
}

json Agent::Impl::Status() {
  json status = Overview(), channels = json::array();
  for (const auto& [key, channel] : channels_) channels.push_back(ChannelJson(channel, /*with_counters=*/true));
  status["channels"] = std::move(channels);
  return status;
}

json Agent::Impl::Overview() {
  json mechanisms = json::array();
  const auto mechanism = [&](const std::string& name, const std::string& active, const std::string& detail) {
    mechanisms.push_back({{"name", name}, {"active", active}, {"detail", detail}});
  };
  for (const Mechanism& m : options_.mechanisms) mechanism(m.name, m.active, m.detail);
  if (brings_offers() || !options_.pu_listen.empty()) {
    mechanism("other PU", link_ != nullptr ? "joined" : "not joined",
              link_ != nullptr ? link_->Description() : link_error_);
  }
  json processes = json::array();
  for (const auto& [id, session] : sessions_) {
    processes.push_back({{"pid", session.who.pid},
                         {"uid", session.who.uid},
                         {"command", session.who.command},
                         {"pod_uid", session.who.pod_uid},
                         {"cgroup", session.who.cgroup},
                         {"domain", session.credit_key},
                         {"groups", policy_.GroupsOf({.pod_uid = session.who.pod_uid, .cgroup = session.who.cgroup})},
                         {"offers", session.offers},
                         {"waiting_offers", pairing_.waiting_of(id)},
                         {"paired", session.paired},
                         {"declined", session.declined},
                         {"channels", session.channels.size()}});
  }
  json domains = json::array();
  for (const auto& [name, use] : credits_.uses()) {
    domains.push_back({{"domain", name},
                       {"channels", use.channels},
                       {"bytes", use.bytes},
                       {"refused", use.refused},
                       {"channels_limit", credits_.limits().channels},
                       {"bytes_limit", credits_.limits().bytes}});
  }
  return {{"socket", options_.socket},
          {"epoch", fmt::format("{:016x}", epoch_)},
          {"started_unix_ms", UnixMs(started_)},
          {"totals", Totals()},
          {"mechanisms", mechanisms},
          {"processes", processes},
          {"domains", domains},
          {"recent_declines", recent_declines_}};
}

json Agent::Impl::Execute(const json& request, AdminClient& client) {
  const std::string command = request.value("command", "");
  if (command == "status") {
    client.with_counters = request.value("counters", false);
    json overview = Overview();
    client.listing = true;
    return overview;
  }
  if (command == "trace") {
    client.tracing = true;
    return {{"event", "tracing"}, {"socket", options_.socket}};
  }
  if (command == "fence") {
    const uint64_t channel_id = request.contains("channel") ? WholeAt<uint64_t>(request, "channel") : 0;
    const pid_t pid = request.contains("pid") ? WholeAt<pid_t>(request, "pid") : 0;
    const bool stay = request.value("stay", false);
    if (stay && (channel_id != 0 || pid != 0)) return {{"error", "what stays on TCP is all or nothing"}};
    if (stay) StayOnTcp(true);
    // The one that offered it, or a child of it that has it now.
    const auto has = [&](const ChannelEnd& end) {
      return end.label.pid == pid || std::any_of(end.holders.begin(), end.holders.end(), [&](uint64_t holder) {
               auto session = sessions_.find(holder);
               return session != sessions_.end() && session->second.who.pid == pid;
             });
    };
    const int count = FenceChannels(Reason::kOperator, [&](const Channel& channel) {
      if (channel_id != 0) return channel.name.id == channel_id;
      if (pid != 0) return has(channel.ends[0]) || has(channel.ends[1]);
      return true;
    });
    return {{"fenced", count}, {"stays_on_tcp", stays_on_tcp_}};
  }
  if (command == "resume") {
    StayOnTcp(false);
    return {{"stays_on_tcp", stays_on_tcp_}};
  }
  return {{"error", fmt::format("unknown command '{}'", command)}};
}

void Agent::Impl::Event(json event) {
  for (auto& [id, client] : admins_) {
    if (!client.tracing) continue;
    if (client.out.size() > kMaxTraceBacklog) continue;  // it does not read; what is missing it cannot know anyway
    event["unix_ms"] = UnixMs(std::chrono::system_clock::now());
    client.out += Text(event) + "\n";
    Watch(client.fd.get(), id, EPOLLIN | EPOLLOUT, /*change=*/true);
  }
}

void Agent::Impl::ListOn(AdminClient& client) {
  auto at = channels_.upper_bound(client.listed);
  for (size_t listed = 0; listed < kChannelsPerTurn && at != channels_.end(); ++listed, ++at) {
    if (client.listed != ChannelKey{}) client.out += ",";
    client.out += Text(ChannelJson(at->second, client.with_counters));
    client.listed = at->first;
  }
  if (at != channels_.end()) return;
  client.out += "]}\n";
  client.listing = false;
}

void Agent::Impl::OnAdmin(uint64_t id, uint32_t events) {
  auto found = admins_.find(id);
  if (found == admins_.end()) return;
  AdminClient& client = found->second;
  char buffer[1024];
  const ssize_t got = recv(client.fd.get(), buffer, sizeof buffer, MSG_DONTWAIT);
  client.ended = client.ended || got == 0;
  const bool waits_for_more = client.listing || !client.out.empty();
  if ((client.ended && !waits_for_more) || (got < 0 && errno != EAGAIN && errno != EINTR)) {
    admins_.erase(found);
    return;
  }
  if (got > 0 && !client.answered) {
    client.in.append(buffer, static_cast<size_t>(got));
    if (const size_t end = client.in.find('\n'); end != std::string::npos) {
      client.answered = true;
      const json request = json::parse(client.in.substr(0, end), nullptr, /*allow_exceptions=*/false);
      json answer = {{"error", "the request is no JSON object"}};
      try {
        if (request.is_object()) answer = Execute(request, client);
      } catch (const std::exception& error) {  // a field of the wrong type
        answer = {{"error", error.what()}};
      }
      client.out = Text(answer);
      if (client.listing) {
        client.out.back() = ',';
        client.out += "\"channels\":[";
      } else {
        client.out += "\n";
      }
    } else if (client.in.size() > kMaxRequest) {
      admins_.erase(found);
      return;
    }
  }
  if (client.listing && client.out.empty()) ListOn(client);
  if (!client.out.empty()) {
    const ssize_t sent = send(client.fd.get(), client.out.data(), client.out.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN && errno != EINTR) {
      admins_.erase(found);
      return;
    }
    if (sent > 0) client.out.erase(0, static_cast<size_t>(sent));
  }
  if (client.answered && client.out.empty() && !client.listing && !client.tracing) {
    admins_.erase(found);
    return;
  }
  const uint32_t reads = client.ended ? 0u : static_cast<uint32_t>(EPOLLIN);
  const bool writes = client.listing || !client.out.empty();
  Watch(client.fd.get(), id, reads | (writes ? static_cast<uint32_t>(EPOLLOUT) : 0u), /*change=*/true);
}

}  // namespace heterok8s::heterosock::agent
