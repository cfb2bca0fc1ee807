// Chunk files mapped behind one another into one range of addresses.
//
// Spec: formats/sharkstore-1.md, "For implementers: reading".
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace sharkstore {

// A chunk file whose size is not the one that the array's geometry implies.
struct WrongSize {
  std::string path;
  std::int64_t bytes;
};

inline std::size_t round_up(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

// A read-only range of addresses; unmapped when the last owner lets go.
class Mapping {
 public:
  Mapping() = default;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (reserved_ != MAP_FAILED) munmap(reserved_, reserved_bytes_);
  }

  std::uint8_t* data() { return data_; }

  // Whether an array of one small file may lie wherever the system puts it: its last page
  // leaves room to read a vector past the last row.
  static bool fits_alone(std::size_t files, std::size_t bytes) {
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    return files == 1 && bytes < kHugePage && round_up(bytes, page) - bytes >= kReadPastEnd;
  }

  // Reserves room for `bytes` and a readable page behind them: all of it reads as zeros until
  // files are placed, or until it is written to if that is wanted. Ranges of a huge page and more start on a multiple of it, so that the
  // kernel may map them by huge pages.
  void reserve(std::size_t bytes, bool writable = false) {
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t alignment = bytes >= kHugePage ? kHugePage : page;
    reserved_bytes_ = round_up(bytes, page) + page + (alignment > page ? alignment : 0);
    reserved_ = mmap(nullptr, reserved_bytes_, writable ? PROT_READ | PROT_WRITE : PROT_READ,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved_ == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
    data_ = reinterpret_cast<std::uint8_t*>(
        round_up(reinterpret_cast<std::uintptr_t>(reserved_), alignment));
  }

  // Maps the first `bytes` of a file at `offset` of what was reserved, or anywhere if nothing
  // was; the file, a path below the folder, must have `file_bytes`.
  void place(int folder, const std::string& path, std::size_t offset, std::size_t bytes,
             std::size_t file_bytes) {
    // without O_NONBLOCK a pipe in place of the file would wait for a writer
    const int fd = openat(folder, path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) throw std::system_error(errno, std::generic_category(), path);
    struct stat status {};
    const bool regular = fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
    const bool fits = regular && static_cast<std::uint64_t>(status.st_size) == file_bytes;
    void* placed = MAP_FAILED;
    if (fits)
      placed = mmap(data_ ? data_ + offset : nullptr, bytes, PROT_READ,
                    data_ ? MAP_SHARED | MAP_FIXED : MAP_SHARED, fd, 0);
    const int error = errno;
    close(fd);
    if (!fits) throw WrongSize{path, regular ? static_cast<std::int64_t>(status.st_size) : -1};
    if (placed == MAP_FAILED) throw std::system_error(error, std::generic_category(), path);
    if (data_) return;
    reserved_ = placed;
    reserved_bytes_ = bytes;
    data_ = static_cast<std::uint8_t*>(placed);
  }

  // To be called before the first touch. The system may not heed it.
  void advise_huge_pages(std::size_t bytes) {
#ifdef MADV_HUGEPAGE
    if (bytes >= kHugePage) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
  }

 private:
  static constexpr std::size_t kHugePage = std::size_t{2} << 20;
  static constexpr std::size_t kReadPastEnd = 64;
  void* reserved_ = MAP_FAILED;
  std::size_t reserved_bytes_ = 0;
  std::uint8_t* data_ = nullptr;
};

}  // namespace sharkstore
