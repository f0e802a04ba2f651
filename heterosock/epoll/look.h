// What an item of a set has to report. Private to epoll/.
//
// Threading: with its instance's lock held. Ownership: of nothing. Errors: none.
//
//   Item copy = Pool::At(index);
//   const bool ready = Look(copy) != 0;   // and the item itself reports it still
#pragma once

#include <stdint.h>

namespace heterok8s::heterosock {

struct Item;

// Whether the item is to be reported now, and with what (EPOLL…). Of an edge-triggered item it notes what has been
// told.
uint32_t Look(Item& item);

}  // namespace heterok8s::heterosock
