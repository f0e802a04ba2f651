// The faults that meddler.h can commit, step by step.
#include "heterosock/tests/meddler.h"

namespace heterok8s::heterosock::behaviour {

using protocol::Type;

const std::vector<Fault>& Faults() {
  static const std::vector<Fault> all = {
      {"an older layout, one end", Type::kHello, Misdeed::kOldLayout, 1},
      {"an older layout, the other end", Type::kHello, Misdeed::kOldLayout, 2},
      {"an older layout, both", Type::kHello, Misdeed::kOldLayout, 0},
      {"another protocol", Type::kHello, Misdeed::kOldProtocol, 1},
      {"HELLO lost", Type::kHello, Misdeed::kLose, 1},
      {"HELLO late", Type::kHello, Misdeed::kLate, 1},
      {"dies at HELLO", Type::kHello, Misdeed::kCut, 1},
      {"WELCOME lost", Type::kWelcome, Misdeed::kLose, 2},
      {"refused", Type::kWelcome, Misdeed::kRefuse, 1},
      {"OFFER lost", Type::kOffer, Misdeed::kLose, 1},
      {"OFFER lost, of the other end", Type::kOffer, Misdeed::kLose, 2},
      {"OFFER late", Type::kOffer, Misdeed::kLate, 1},
      {"OFFER without its socket", Type::kOffer, Misdeed::kNoDescriptors, 1},
      {"dies at the first OFFER", Type::kOffer, Misdeed::kCut, 1},
      {"dies between the OFFERs", Type::kOffer, Misdeed::kCutAfter, 1},
      {"dies at the second OFFER", Type::kOffer, Misdeed::kCut, 2},
      {"PAIRED lost, at one end", Type::kPaired, Misdeed::kLose, 1},
      {"PAIRED lost, at the other end", Type::kPaired, Misdeed::kLose, 2},
      {"PAIRED late, at one end", Type::kPaired, Misdeed::kLate, 1},
      {"PAIRED late, at the other end", Type::kPaired, Misdeed::kLate, 2},
      {"PAIRED without descriptors", Type::kPaired, Misdeed::kNoDescriptors, 1},
      {"PAIRED with memory that could shrink", Type::kPaired, Misdeed::kUnsealed, 1},
      {"PAIRED with memory of another version", Type::kPaired, Misdeed::kOldMemory, 2},
      {"DECLINED instead of PAIRED, at one end", Type::kPaired, Misdeed::kDecline, 2},
      {"dies before PAIRED", Type::kPaired, Misdeed::kCut, 1},
      {"dies between the PAIRED", Type::kPaired, Misdeed::kCutAfter, 1},
      {"dies after both PAIRED", Type::kPaired, Misdeed::kCutAfter, 2},
      {"FENCE behind PAIRED, at one end", Type::kPaired, Misdeed::kFence, 1},
      {"FENCE behind PAIRED, at the other end", Type::kPaired, Misdeed::kFence, 2},
      {"FENCE behind PAIRED, at both", Type::kPaired, Misdeed::kFence, 0},
      {"FENCE while it moves, at one end", Type::kPaired, Misdeed::kFenceLate, 1},
      {"FENCE while it moves, at both", Type::kPaired, Misdeed::kFenceLate, 0},
      {"RELEASE lost", Type::kRelease, Misdeed::kLose, 0},
      {"dies at RELEASE", Type::kRelease, Misdeed::kCut, 1},
  };
  return all;
}

const std::vector<Fault>& HandOnFaults() {
  static const std::vector<Fault> all = {
      {"RESUME lost", Type::kResume, Misdeed::kLose, 1},
      {"RESUME late", Type::kResume, Misdeed::kLate, 1},
      {"RESUME twice", Type::kResume, Misdeed::kTwice, 1},
      {"RESUME without descriptors", Type::kResume, Misdeed::kNoDescriptors, 1},
      {"RESUME with memory that could shrink", Type::kResume, Misdeed::kUnsealed, 1},
      {"dies at RESUME", Type::kResume, Misdeed::kCut, 1},
      {"dies after RESUME", Type::kResume, Misdeed::kCutAfter, 1},
      {"FENCE behind RESUME", Type::kResume, Misdeed::kFence, 1},
      {"HAND_BACK lost", Type::kHandBack, Misdeed::kLose, 1},
      {"HAND_BACK late", Type::kHandBack, Misdeed::kLate, 1},
      {"HAND_BACK twice", Type::kHandBack, Misdeed::kTwice, 1},
      {"dies at HAND_BACK", Type::kHandBack, Misdeed::kCut, 1},
      {"dies after HAND_BACK", Type::kHandBack, Misdeed::kCutAfter, 1},
      {"FENCE behind HAND_BACK", Type::kHandBack, Misdeed::kFence, 1},
  };
  return all;
}

}  // namespace heterok8s::heterosock::behaviour
