#include "common/tls/grpc_log.h"

#include <grpc/support/log.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <chrono>
#include <string_view>

namespace heterok8s::tls {
namespace {

// src/core/tsi/ssl_transport_security.cc, ssl_handshaker_do_handshake: "Handshake failed with fatal error …"
constexpr std::string_view kHandshakeFailed = "Handshake failed";
// src/core/lib/transport/handshaker.cc, HandshakeManager::OnTimeoutFn; told by tls_security_connector.cc.
constexpr std::string_view kHandshakeTimedOut = "Handshake timed out";

std::atomic<uint64_t> failed_handshakes{0};
std::atomic<int64_t> told_in_second{-1};

bool FirstOfItsSecond() {
  using namespace std::chrono;
  const int64_t now = duration_cast<seconds>(steady_clock::now().time_since_epoch()).count();
  return told_in_second.exchange(now) != now;
}

void OnGrpcLog(gpr_log_func_args* args) {
  if (args->severity != GPR_LOG_SEVERITY_ERROR) {
    spdlog::debug("grpc: {}", args->message);
    return;
  }
  const std::string_view message = args->message;
  if (!message.starts_with(kHandshakeFailed) && message.find(kHandshakeTimedOut) == message.npos) {
    spdlog::warn("grpc: {}", args->message);
    return;
  }
  const uint64_t failed = ++failed_handshakes;
  if (FirstOfItsSecond()) spdlog::warn("grpc: {} (handshakes that failed since the start: {})", args->message, failed);
}

}  // namespace

void TakeGrpcLog() { gpr_set_log_function(OnGrpcLog); }

uint64_t FailedHandshakes() { return failed_handshakes; }

}  // namespace heterok8s::tls
