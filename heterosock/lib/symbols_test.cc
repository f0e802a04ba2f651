// What libheterosock.so asks of the programs that it is preloaded into, read from the file: no libstdc++, no symbol of
// a glibc newer than 2.31, and no name of its own but those of heterosock.map.
#include <elf.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>
#include <utility>

#include "heterosock/tests/agent.h"

namespace heterok8s::heterosock {
namespace {

std::string Contents(const std::string& path) {
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
    for (size_t i = 0; i < section->sh_size / sizeof(Elf64_Dyn); ++i) {
      const Elf64_Dyn& entry = Table<Elf64_Dyn>(*section)[i];
      if (entry.d_tag == DT_NEEDED) names.insert(Text(*section, entry.d_un.d_val));
    }
    return names;
  }

  std::set<std::string> Versions() const {
    std::set<std::string> names;
    const Elf64_Shdr* section = Find(SHT_GNU_verneed);
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

  std::set<std::string> Exported() const {
    std::set<std::string> names;
    const Elf64_Shdr* section = Find(SHT_DYNSYM);
    for (size_t i = 0; i < section->sh_size / sizeof(Elf64_Sym); ++i) {
      const Elf64_Sym& symbol = Table<Elf64_Sym>(*section)[i];
      if (symbol.st_shndx != SHN_UNDEF && ELF64_ST_BIND(symbol.st_info) != STB_LOCAL)
        names.insert(Text(*section, symbol.st_name));
    }
    return names;
  }

 private:
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
    FAIL("no section of type " << type);
    return nullptr;
  }
  const char* Text(const Elf64_Shdr& section, uint64_t at) const {
    return bytes_.data() + Section(section.sh_link).sh_offset + at;
  }

  const std::string bytes_;
};

Elf Library() {
  const std::string path = behaviour::BesideThisProgram("libheterosock.so");
  REQUIRE_FALSE(path.empty());
  return Elf(Contents(path));
}

TEST_CASE("the library needs libc alone, and none newer than glibc 2.31") {
  const Elf library = Library();

  std::set<std::string> needed = library.Needed();
  std::erase_if(needed,
                [](const std::string& name) { return name.rfind("ld-linux", 0) == 0; });  // every process has it
  CHECK(needed == std::set<std::string>{"libc.so.6", "libdl.so.2"});
  const std::set<std::string> versions = library.Versions();
  CHECK_FALSE(versions.empty());
  for (const std::string& version : versions) {
    CAPTURE(version);
    std::smatch number;
    REQUIRE(std::regex_match(version, number, std::regex(R"(GLIBC_2\.(\d+)(\.\d+)?)")));
    CHECK(std::stoi(number[1]) <= 31);
  }
}

TEST_CASE("the library exports what its map lists, and nothing else") {
  const std::string map = std::regex_replace(Contents("heterosock/lib/heterosock.map"), std::regex("#[^\n]*"), "");
  std::set<std::string> listed;
  const std::regex name(R"((\w+);)");
  for (auto at = std::sregex_iterator(map.begin(), map.end(), name); at != std::sregex_iterator(); ++at)
    listed.insert((*at)[1]);

  CHECK(listed.size() > 100);
  CHECK(Library().Exported() == listed);
}

// They are not for programs, but libraries of the same libc jump to them: libpthread's fork before glibc 2.34 is a jump
// to
// __libc_fork, and for whoever looks up "fork" behind the library that would be the library again.
TEST_CASE("the library exports no name that the libraries of a libc keep for each other") {
  for (const std::string& name : Library().Exported()) CHECK(name.rfind("__libc_", 0) != 0);
}

}  // namespace
}  // namespace heterok8s::heterosock
