// A C library object with its free function, one pointer wide.
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
