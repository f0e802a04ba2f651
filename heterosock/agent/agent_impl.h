// The agent's state and the steps that change it, in the order of a connection's life. Private to agent*.cc.
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <list>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/sys/unique_fd.h"
#include "heterosock/agent/agent.h"
#include "heterosock/agent/channel_memory.h"
#include "heterosock/agent/closer.h"
#include "heterosock/agent/packet.h"
#include "heterosock/agent/process_identity.h"
#include "heterosock/agent/pu_link.h"
#include "heterosock/protocol/messages.h"

namespace heterok8s::heterosock::agent {

using ChannelKey = std::pair<uint64_t, uint64_t>;  // epoch, id

// One library: a process, or a child of one that made a connection of its own.
struct Session {
  uint64_t id = 0;
  sys::UniqueFd fd;
  ProcessIdentity who;
  sys::UniqueFd pidfd;
  std::string credit_key;
  bool welcomed = false;
  uint32_t layout_version = 0;
  std::set<ChannelKey> channels;
  struct Outgoing {
    std::string bytes;
    std::vector<sys::UniqueFd> descriptors;
  };
  std::deque<Outgoing> outgoing;  // what did not fit into the socket's buffer
  uint64_t offers = 0, paired = 0, declined = 0;
  // How many of its offers without an answer may be made again: some for each that found its other end. A process that
  // nobody else's offers meet has none, and makes each offer once.
  uint32_t chances = 0;
};

struct ChannelEnd {
  EndLabel label;
  Domain domain;
  std::set<uint64_t> holders;      // sessions of this agent
  bool on_other_pu = false;        // held by a process there
  bool charged = false;            // credits of `domain` were taken
  bool handed_back = false;        // it asked once for what it had not read
  uint64_t cookie = 0, inode = 0;  // of its socket
  uint64_t counted = 0;            // of the bytes that it sent
  bool alive() const { return on_other_pu || !holders.empty(); }
};

struct Channel {
  ChannelName name;
  ChannelEnd ends[2];
  sys::UniqueFd memory;
  uint64_t bytes = 0;
  bool by_token = false;
  bool spans_pus = false;  // one end is, or was, a process of the other PU
  uint64_t used = 0;       // of its memory
  std::chrono::steady_clock::time_point looked_at = std::chrono::steady_clock::now();
  std::chrono::system_clock::time_point since = std::chrono::system_clock::now();
};

struct AdminClient {
  sys::UniqueFd fd;
  std::string in, out;
  bool answered = false, tracing = false;
  bool ended = false;  // it sends no more, and reads what it asked for
  // `status` ends with all channels, of which it has been told those up to `listed`.
  bool listing = false, with_counters = false;
  ChannelKey listed;
};

struct AgentCounters {
  uint64_t sessions = 0, offers = 0, pairs = 0, pairs_by_token = 0, releases = 0, resumes = 0, fences = 0,
           malformed = 0, refused = 0;
  const std::shared_ptr<std::atomic<uint64_t>> handed_back = std::make_shared<std::atomic<uint64_t>>(0);
  uint64_t shared_bytes = 0;  // both directions, as of when each channel was looked at
  std::map<Reason, uint64_t> declines;
};

class Agent::Impl {
 public:
  explicit Impl(Options options);
  absl::Status Open();
  absl::Status Run();
  void Wake();
  bool MayLog();

  // agent_offers.cc: from OFFER to PAIRED or DECLINED.
  bool OnHello(Session& session, const Packet& packet);
  bool OnOffer(Session& session, Packet& packet);
  bool OnWithdraw(Session& session, const Packet& packet);
  void Handle(std::vector<Outcome> outcomes);
  void Refuse(const Offer& offer, Reason reason);
  void Refuse(const Offer& offer, Reason reason, uint32_t retry_after_ms);
  void MakeRoom(Session& session);
  void Join(const Pair& pair);
  void TellPaired(const Channel& channel);
  // An end that stays on TCP, for whoever follows, and in the list of the last ones.
  void TellStays(const char* what, const EndLabel& label, Reason reason, uint64_t channel = 0);
  EndLabel LabelOf(const Offer& offer) const;

  // agent_channels.cc: from PAIRED to the end.
  bool OnRelease(Session& session, const Packet& packet);
  bool OnResume(Session& session, Packet& packet);
  // False: that end is another socket's, or its domain has no credit left. Takes `memory` of a channel that is new.
  bool Resume(Session& session, const ChannelName& name, int side, const SocketIdentity& socket, uint64_t bytes,
              sys::UniqueFd& memory);
  bool OnHandBack(Session& session, const Packet& packet);
  void HandBackTo(const Session& asker, Channel& channel, int side);
  void SendPaired(Session& session, uint64_t offer_id, const Channel& channel, int side, int sleeper, int ringer);
  void LetGo(const ChannelKey& key, int side, uint64_t session, Reason reason);
  void ForgetIfDead(const ChannelKey& key);
  int FenceChannels(Reason reason, const std::function<bool(const Channel&)>& which);
  // Whether nothing moves any more. What has moved goes back all the same only by FenceChannels.
  void StayOnTcp(bool stays);
  void Fence(const ChannelKey& key, const Channel& channel, Reason reason);
  bool Charge(ChannelEnd& end, uint64_t bytes);
  // What the policy says of its ends. True as long as one is unknown: it is the other PU's, or has not said RESUME.
  bool MayShare(const Channel& channel) const;

  // agent_peer.cc: the other PU.
  void TendLink();
  void SetLink(std::unique_ptr<PuLink> link);
  void DropLink(const absl::Status& why);
  void OnLink(uint32_t events);
  void FlushLink();
  void OnPu(PuOffer message);
  void OnPu(PuWithdraw message);
  void OnPu(PuPaired message);
  void OnPu(PuDeclined message);
  void OnPu(PuReleased message);
  void OnPu(PuFence message);
  bool SendToPu(PuMessage message);
  void Bring(const Offer& offer);
  bool brings_offers() const { return !options_.pu_connect.empty(); }

  // agent_figures.cc: what channels carried and use.
  void LookAt(Channel& channel);
  void CountFromHere(Channel& channel);
  void LookAround();  // at some now, and with the next turns of the loop at all others
  void LookOn();

  // agent_status.cc: what people see.
  nlohmann::json Status();
  nlohmann::json Overview();  // all but the channels
  nlohmann::json Totals();
  void ListOn(AdminClient& client);
  nlohmann::json Execute(const nlohmann::json& request, AdminClient& client);
  void Event(nlohmann::json event);
  void OnAdmin(uint64_t id, uint32_t events);

  // agent_send.cc: what goes out.
  void Send(Session& session, std::string bytes, const std::vector<int>& descriptors);
  template <typename T>
  void SendMessage(Session& session, const T& message) {
    Send(session, std::string(reinterpret_cast<const char*>(&message), sizeof message), {});
  }
  // Sends what is kept. False: the library is gone.
  bool Flush(Session& session);
  // What came of the last packet to `fd` says when to go on: when it is writable, or in a moment.
  void WaitFor(int fd, uint64_t tag, Sent last);
  void TryAgain();

  // agent_loop.cc: descriptors and time.
  sys::UniqueFd AcceptFrom(int listener);
  void Accept();
  void AcceptAdmin();
  void OnSession(uint64_t id, uint32_t events);
  bool Dispatch(Session& session, Packet& packet);
  void Close(uint64_t session, const char* why);
  void Watch(int fd, uint64_t tag, uint32_t events, bool change = false);
  int TimeoutMs() const;
  void RunTasks();

  Agent* self_ = nullptr;
  Options options_;
  Policy policy_;
  const ProcessIdentity own_ = IdentifySelf();
  const uint64_t epoch_;
  const std::chrono::system_clock::time_point started_ = std::chrono::system_clock::now();
  sys::UniqueFd epoll_, listener_, admin_listener_, pu_listener_, wake_;
  sys::UniqueFd reserve_;  // given up for a moment when this process may open no more
  bool stopping_ = false;
  bool stays_on_tcp_ = false;  // an operator said so: no offer becomes a channel
  std::mutex tasks_mutex_;
  std::deque<std::function<void(Agent&)>> tasks_;

  SocketInspector inspector_;
  Closer closer_;
  Pairing pairing_;
  Credits credits_;
  uint64_t next_session_ = 16;  // below: names of other things in the event loop, and kPuSession
  uint64_t next_channel_;       // not from 1: a process may hold channels of the agent before, and of the other PU's
  std::map<uint64_t, Session> sessions_;
  std::map<std::string, uint32_t> sessions_of_;  // by credit key
  std::map<uint64_t, const char*> doomed_;       // sessions to close once nobody holds a reference, and why
  std::set<uint64_t> later_;                     // for which the kernel had no room, by their tags in the event loop
  std::chrono::milliseconds pause_{};            // until they are tried again
  std::chrono::steady_clock::time_point retry_at_{};
  std::map<ChannelKey, Channel> channels_;
  std::map<uint64_t, AdminClient> admins_;

  std::unique_ptr<PuLink> link_;
  std::string link_error_ = "not yet connected";
  std::chrono::steady_clock::time_point next_connect_{};
  std::set<OfferName> brought_;  // our offers that the other PU knows
  struct RemoteOffer {
    OfferName theirs;
    EndLabel label;
  };
  std::map<uint64_t, RemoteOffer> remote_offers_;  // by the number under which they wait here
  std::map<OfferName, uint64_t> remote_numbers_;
  uint64_t next_remote_offer_ = 1;

  bool looking_ = false;  // at all channels, of which `look_from_` is the next
  ChannelKey look_from_;
  uint64_t used_bytes_ = 0;  // by all channels, as of when each was looked at
  AgentCounters counters_;
  std::chrono::steady_clock::time_point log_window_{};
  int logged_ = 0;
  std::deque<nlohmann::json> recent_declines_;
};

constexpr uint64_t kPuSession = 1;
constexpr uint64_t kLinkTag = 6;  // of link_ in the event loop

}  // namespace heterok8s::heterosock::agent
