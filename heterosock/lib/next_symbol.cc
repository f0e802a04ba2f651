#include "heterosock/lib/next_symbol.h"

#include <elf.h>
#include <features.h>
#include <link.h>
#include <stdint.h>
#include <string.h>
#ifdef __GLIBC__
#include <gnu/lib-names.h>
#else
extern "C" [[gnu::visibility("hidden")]] ElfW(Dyn) _DYNAMIC[];  // the linker's, of this library
#endif

namespace heterok8s::heterosock {
namespace {

constexpr uint16_t kHiddenVersion = 0x8000;  // of an Elf_Versym: not what a program is linked with today

// The tables of one loaded object. ld.so has made their addresses absolute, but not those of the vDSO. Of an object
// that lies below the address it was linked for, l_addr is negative: it is one that ld.so loaded.
struct Tables {
  Tables(ElfW(Addr) load_address, const ElfW(Dyn) * dynamic) : address(load_address) {
    for (const ElfW(Dyn)* entry = dynamic; entry->d_tag != DT_NULL; ++entry) {
      const uintptr_t value = entry->d_un.d_ptr;
      const bool relative = static_cast<intptr_t>(address) > 0 && value < address;
      const uintptr_t at = relative ? value + address : value;
      if (entry->d_tag == DT_SONAME) soname = value;
      if (entry->d_tag == DT_SYMTAB) symbols = reinterpret_cast<const ElfW(Sym)*>(at);
      if (entry->d_tag == DT_STRTAB) strings = reinterpret_cast<const char*>(at);
      if (entry->d_tag == DT_VERSYM) versions = reinterpret_cast<const uint16_t*>(at);
      if (entry->d_tag == DT_GNU_HASH) gnu_hash = reinterpret_cast<const uint32_t*>(at);
      if (entry->d_tag == DT_HASH) sysv_hash = reinterpret_cast<const uint32_t*>(at);
    }
  }

  bool Is(uint32_t index, const char* name) const {
    const ElfW(Sym)& symbol = symbols[index];
    const unsigned type = ELF64_ST_TYPE(symbol.st_info);
    if (symbol.st_shndx == SHN_UNDEF || symbol.st_value == 0 || (type != STT_FUNC && type != STT_GNU_IFUNC))
      return false;
    if (versions != nullptr && (versions[index] & kHiddenVersion) != 0) return false;
    return strcmp(strings + symbol.st_name, name) == 0;
  }

  // Of the layout see "GNU hash" in binutils' bfd/elflink.c: the number of buckets, the first symbol that is hashed,
  // the words of a Bloom filter and its shift; then the filter, the buckets and one hash for each symbol, of which the
  // lowest bit ends a bucket.
  const ElfW(Sym) * ByGnuHash(const char* name) const {
    const uint32_t buckets = gnu_hash[0], first = gnu_hash[1], filter_words = gnu_hash[2];
    const auto* bucket =
        reinterpret_cast<const uint32_t*>(reinterpret_cast<const ElfW(Addr)*>(gnu_hash + 4) + filter_words);
    const uint32_t* hashes = bucket + buckets;
    uint32_t hash = 5381;
    for (const char* at = name; *at != 0; ++at) hash = hash * 33 + static_cast<unsigned char>(*at);
    uint32_t index = buckets == 0 ? 0 : bucket[hash % buckets];
    if (index < first) return nullptr;
    for (;; ++index) {
      if (((hashes[index - first] ^ hash) >> 1) == 0 && Is(index, name)) return symbols + index;
      if ((hashes[index - first] & 1) != 0) return nullptr;
    }
  }

  // The number of buckets and of symbols, then the buckets and the chain.
  const ElfW(Sym) * BySysvHash(const char* name) const {
    for (uint32_t index = 1; index < sysv_hash[1]; ++index) {
      if (Is(index, name)) return symbols + index;
    }
    return nullptr;
  }

  const ElfW(Sym) * Find(const char* name) const {
    if (symbols == nullptr || strings == nullptr) return nullptr;
    if (gnu_hash != nullptr) return ByGnuHash(name);
    return sysv_hash != nullptr ? BySysvHash(name) : nullptr;
  }

#ifdef __GLIBC__
  bool IsLibc() const { return strings != nullptr && soname != 0 && strcmp(strings + soname, LIBC_SO) == 0; }
#endif

  // False when the name is not there.
  bool Look(const char* name, NextSymbolAnswer& answer) const {
    const ElfW(Sym)* symbol = Find(name);
    if (symbol == nullptr) return false;
    if (ELF64_ST_TYPE(symbol->st_info) == STT_GNU_IFUNC)
      answer = {};
    else
      answer = {reinterpret_cast<void*>(address + symbol->st_value), true};
    return true;
  }

  const ElfW(Addr) address;
  uintptr_t soname = 0;  // in the strings
  const ElfW(Sym) * symbols = nullptr;
  const char* strings = nullptr;
  const uint16_t* versions = nullptr;
  const uint32_t* gnu_hash = nullptr;
  const uint32_t* sysv_hash = nullptr;
};

struct Search {
  const char* name;
  bool behind = false;  // this library has been passed
  bool found = false;
  NextSymbolAnswer answer;
};

int LookInto(dl_phdr_info* object, size_t, void* data) {
  auto& search = *static_cast<Search*>(data);
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    if (object->dlpi_phdr[i].p_type != PT_DYNAMIC) continue;
    const auto* dynamic = reinterpret_cast<const ElfW(Dyn)*>(object->dlpi_addr + object->dlpi_phdr[i].p_vaddr);
    if (search.behind)
      search.found = Tables(object->dlpi_addr, dynamic).Look(search.name, search.answer);
    else
      search.behind = dynamic == _DYNAMIC;
  }
  return search.found ? 1 : 0;  // 1 ends it
}

}  // namespace

#ifdef __GLIBC__
NextSymbolAnswer NextSymbol(const char* name) {
  const link_map* object = _r_debug.r_map;
  while (object != nullptr && object->l_ld != _DYNAMIC) object = object->l_next;
  if (object == nullptr) return {};
  for (object = object->l_next; object != nullptr; object = object->l_next) {
    const Tables tables(object->l_addr, object->l_ld);
    NextSymbolAnswer answer;
    if (tables.Look(name, answer)) return answer;
    if (tables.IsLibc()) return {nullptr, true};
  }
  return {};
}
#else
NextSymbolAnswer NextSymbol(const char*) { return {}; }
#endif

NextSymbolAnswer NextSymbolOfAny(const char* name) {
  Search search{.name = name};
  dl_iterate_phdr(LookInto, &search);
  if (search.found) return search.answer;
  return {nullptr, search.behind};
}

}  // namespace heterok8s::heterosock
