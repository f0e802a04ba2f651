// A C library object with its free function, one pointer wide.
//
// Purpose: nothing of a C library is held raw. Threading: as the library says of the object; the handle is a
// unique_ptr. Ownership: frees the object, once. Errors: none; a null handle is what the library's own failure leaves.
//
//   using NlSocket = sys::CHandle<nl_sock, nl_socket_free>;
//   NlSocket socket(nl_socket_alloc());
#pragma once

#include <memory>

namespace heterok8s::sys {

template <auto Free>
struct CHandleDeleter {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};

template <typename T, auto Free>
using CHandle = std::unique_ptr<T, CHandleDeleter<Free>>;

}  // namespace heterok8s::sys
