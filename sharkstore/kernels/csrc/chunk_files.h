// Chunk files of an array that are read as its rows are needed, and never mapped for long.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <string>
#include <vector>

#include "mapping.h"
#include "table.h"

namespace sharkstore {

struct NotOpened {
  std::string path;
  int error;  // as errno has it
};

// What is asked for at a time: of more, Linux reads as much as its read-ahead, or a request to the
// disk, may be, and leaves the rest.
constexpr std::size_t kAskedBytes = 128 << 10;

// Open until the last owner lets go. Reading changes nothing, so threads and forks share them.
class ChunkFiles {
 public:
  // bytes: of all rows; chunk_bytes: of those in one file.
  ChunkFiles(std::uint64_t bytes, std::size_t chunk_bytes)
      : bytes_(bytes), chunk_bytes_(chunk_bytes) {}
  ChunkFiles(const ChunkFiles&) = delete;
  ChunkFiles& operator=(const ChunkFiles&) = delete;
  ~ChunkFiles() {
    for (const File& file : files_) close(file.descriptor);
  }

  // Opens the next file, a path below the folder of a descriptor; it must have `file_bytes`, of
  // which the first `chunk_bytes` are rows.
  void add(int folder, const std::string& path, std::size_t file_bytes) {
    // without O_NONBLOCK a pipe in place of the file would wait for a writer
    const int fd = openat(folder, path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) throw NotOpened{path, errno};
    files_.push_back({fd, path});
    struct stat status {};
    const bool regular = fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
    if (!regular || static_cast<std::uint64_t>(status.st_size) != file_bytes)
      throw WrongSize{path, regular ? static_cast<std::int64_t>(status.st_size) : -1};
#ifdef POSIX_FADV_RANDOM
    posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
#endif
  }

  std::uint64_t bytes() const { return bytes_; }

  // Reads bytes of the array, which has them.
  Unread read(std::uint64_t at, std::size_t bytes, std::uint8_t* to) const {
    while (bytes > 0) {
      const File& file = files_[at / chunk_bytes_];
      const std::uint64_t from = at % chunk_bytes_;
      const std::size_t wanted = std::min<std::size_t>(bytes, chunk_bytes_ - from);
      const ssize_t got = pread(file.descriptor, to, wanted, static_cast<off_t>(from));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return {file.path.c_str(), got < 0 ? errno : 0};
      at += static_cast<std::size_t>(got);
      to += got;
      bytes -= static_cast<std::size_t>(got);
    }
    return {};
  }

  // Asks for bytes of the array to be read into the page cache; waits for none of them.
  void ask(std::uint64_t at, std::size_t bytes) const {
#ifdef POSIX_FADV_WILLNEED
    while (bytes > 0) {
      const std::uint64_t from = at % chunk_bytes_;
      const std::size_t some = std::min<std::size_t>({bytes, chunk_bytes_ - from, kAskedBytes});
      posix_fadvise(files_[at / chunk_bytes_].descriptor, static_cast<off_t>(from),
                    static_cast<off_t>(some), POSIX_FADV_WILLNEED);
      at += some;
      bytes -= some;
    }
#else
    (void)at, (void)bytes;
#endif
  }

  // Bytes of the pages that are in the page cache; -1 where the system does not tell.
  std::int64_t cached() const {
    std::int64_t all = 0;
#ifdef __linux__
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    std::vector<unsigned char> present((chunk_bytes_ + page - 1) / page);
    for (const File& file : files_) {
      // looked at only, so that nothing of it gets into the page tables
      void* mapped = mmap(nullptr, chunk_bytes_, PROT_READ, MAP_SHARED, file.descriptor, 0);
      if (mapped == MAP_FAILED) return -1;
      const bool told = mincore(mapped, chunk_bytes_, present.data()) == 0;
      munmap(mapped, chunk_bytes_);
      if (!told) return -1;
      for (const unsigned char one : present) all += (one & 1) * static_cast<std::int64_t>(page);
    }
    return all;
#else
    return -1;
#endif
  }

 private:
  struct File {
    int descriptor;
    std::string path;
  };

  std::uint64_t bytes_;
  std::size_t chunk_bytes_;
  std::vector<File> files_;
};

}  // namespace sharkstore
