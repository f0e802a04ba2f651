// Tells systemd how a service is doing: ready, alive, ending.
//
// Purpose: Type=notify and WatchdogSec of deploy/systemd. A datagram to $NOTIFY_SOCKET, as sd_notify(3) describes it;
// no library is needed for that. Without systemd nothing happens. Threading: any thread; nothing blocks. Ownership:
// none kept. Errors: none; a service that cannot tell is restarted, which is what is wanted.
//
//   sys::NotifyReady();
//   while (!stopped.WaitFor(sys::WatchdogPeriod(10s))) sys::NotifyAlive();
//   sys::NotifyEnding();
#pragma once

#include <chrono>
#include <string_view>

namespace heterok8s::sys {

// One assignment of sd_notify(3), "READY=1". False when nobody wants to know or it could not be said.
bool Notify(std::string_view state);
inline bool NotifyReady() { return Notify("READY=1"); }
inline bool NotifyAlive() { return Notify("WATCHDOG=1"); }
inline bool NotifyEnding() { return Notify("STOPPING=1"); }

// How long a main loop may sleep between two NotifyAlive: `longest`, or a third of the watchdog's time when that is
// less.
std::chrono::milliseconds WatchdogPeriod(std::chrono::milliseconds longest);

}  // namespace heterok8s::sys
