// A library that a program loads and unloads while it runs.
extern "C" int PluginAnswer() { return 43; }
