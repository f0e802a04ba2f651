// Names in a shared object, read from its file: which it needs, has and asks for.
//
// Threading: none. Errors: a file of another kind fails the Catch2 test that reads it.
//
//   const Elf library(Contents("libheterosock.so"));
//   CHECK(library.Needed().empty());
#pragma once

#include <elf.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <utility>

namespace heterok8s::heterosock::behaviour {

inline std::string Contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Of a 64-bit file of this machine, as the compiler has just made one.
class Elf {
 public:
  explicit Elf(std::string bytes) : bytes_(std::move(bytes)) {}

  std::set<std::string> Needed() const {
    std::set<std::string> names;
    const Elf64_Shdr* section = Find(SHT_DYNAMIC);
    REQUIRE(section != nullptr);
    for (size_t i = 0; i < section->sh_size / sizeof(Elf64_Dyn); ++i) {
      const Elf64_Dyn& entry = Table<Elf64_Dyn>(*section)[i];
      if (entry.d_tag == DT_NEEDED) names.insert(Text(*section, entry.d_un.d_val));
    }
    return names;
  }

  std::set<std::string> Versions() const {
    std::set<std::string> names;
    const Elf64_Shdr* section = Find(SHT_GNU_verneed);
    if (section == nullptr) return names;
    const char* at = bytes_.data() + section->sh_offset;
    for (uint32_t i = 0; i < section->sh_info; ++i) {
      const auto* need = reinterpret_cast<const Elf64_Verneed*>(at);
      const char* each = at + need->vn_aux;
      for (int k = 0; k < need->vn_cnt; ++k) {
        const auto* version = reinterpret_cast<const Elf64_Vernaux*>(each);
        names.insert(Text(*section, version->vna_name));
        each += version->vna_next;
      }
      at += need->vn_next;
    }
    return names;
  }

  std::set<std::string> Exported() const { return Symbols(false); }
  std::set<std::string> Imported() const { return Symbols(true); }

 private:
  std::set<std::string> Symbols(bool undefined) const {
    std::set<std::string> names;
    const Elf64_Shdr* section = Find(SHT_DYNSYM);
    REQUIRE(section != nullptr);
    for (size_t i = 0; i < section->sh_size / sizeof(Elf64_Sym); ++i) {
      const Elf64_Sym& symbol = Table<Elf64_Sym>(*section)[i];
      const auto bind = ELF64_ST_BIND(symbol.st_info);
      if ((symbol.st_shndx == SHN_UNDEF) != undefined || bind == STB_LOCAL || (undefined && bind == STB_WEAK)) continue;
      names.insert(Text(*section, symbol.st_name));
    }
    return names;
  }

  template <typename T>
  const T* Table(const Elf64_Shdr& section) const {
    return reinterpret_cast<const T*>(bytes_.data() + section.sh_offset);
  }
  const Elf64_Ehdr& header() const { return *reinterpret_cast<const Elf64_Ehdr*>(bytes_.data()); }
  const Elf64_Shdr& Section(uint32_t i) const {
    return reinterpret_cast<const Elf64_Shdr*>(bytes_.data() + header().e_shoff)[i];
  }
  const Elf64_Shdr* Find(uint32_t type) const {
    for (uint32_t i = 0; i < header().e_shnum; ++i) {
      if (Section(i).sh_type == type) return &Section(i);
    }
    return nullptr;
  }
  const char* Text(const Elf64_Shdr& section, uint64_t at) const {
    return bytes_.data() + Section(section.sh_link).sh_offset + at;
  }

  const std::string bytes_;
};

}  // namespace heterok8s::heterosock::behaviour
