// What libstdc++'s headers ask of an operating system (bits/os_defines.h), answered for musl.
//
// Only headers are used, nothing of libstdc++ is linked: what is declared here for them is never called.
#pragma once

#include <pthread.h>
#include <time.h>

#define __NO_CTYPE 1
#define __locale_t locale_t
#define __uselocale uselocale
extern "C" int pthread_cond_clockwait(pthread_cond_t*, pthread_mutex_t*, clockid_t, const struct timespec*);
