// The function of a name in the libraries that were loaded behind this one, found without dlsym.
//
// dlsym(RTLD_NEXT) will not do for what may be asked for within the start of a malloc: before glibc 2.34 the first
// dlsym of a thread allocates (dlfcn/dlerror.c), and the lock of that malloc is held. Nor does it answer as a program
// that is linked: it takes a symbol's oldest version (do_lookup_x without DL_LOOKUP_RETURN_NEWEST), which in libpthread
// of before 2.34 is a `fork` that only jumps on, to a name that others can define. This one takes the default version.
//
// Threading: any. Allocates nothing.
//
//     auto* next_read = reinterpret_cast<ssize_t (*)(int, void*, size_t)>(NextSymbol("read").address);
#pragma once

namespace heterok8s::heterosock {

struct NextSymbolAnswer {
  void* address = nullptr;
  // Whether that is all there is to know. If not, dlsym may know more: this library is in a namespace of its own
  // (dlmopen, LD_AUDIT) or was loaded behind libc, libc is musl, or the function is chosen by a function
  // (STT_GNU_IFUNC).
  bool certain = false;
};

// As far as libc, without a lock: what was loaded so far in front stays for as long as the process lives. For what libc
// has or lacks.
NextSymbolAnswer NextSymbol(const char* name);

// As far as there are libraries. What lies behind libc another thread may be about to unload, so ld.so's lock is taken,
// which must not be where a lock of malloc's may be held (dl_iterate_phdr() calls back into programs with it).
NextSymbolAnswer NextSymbolOfAny(const char* name);

}  // namespace heterok8s::heterosock
