// File descriptors of our own in somebody else's process. They get numbers the program does not use: beyond its soft
// limit where the hard limit leaves room (the soft limit is raised for the two system calls that takes), and then only
// those, so that none is missing when the program accepts; else of the highest quarter below it. The wrappers answer
// EBADF for them and closefrom() spares them. They are close-on-exec. Threading: any.
#pragma once

namespace heterok8s::heterosock {

// Moves a descriptor to a hidden number and returns that, or -1 after closing it when there is no room. errno is kept.
int HideFd(int fd);
void CloseHidden(int fd);

}  // namespace heterok8s::heterosock
