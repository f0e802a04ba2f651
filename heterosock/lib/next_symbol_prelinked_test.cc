// A library that is linked for an address that no process has.
extern "C" int PrelinkedAnswer() { return 42; }
