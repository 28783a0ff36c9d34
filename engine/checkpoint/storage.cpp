#include "engine/checkpoint/storage.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>

namespace engine::checkpoint {
namespace {

int result_of(int value) {
  return value < 0 ? -errno : value;
}

// Beneath `directory`, through no link at all; where the kernel has no openat2, not through a link at the end.
int open_beneath(int directory, const std::string& name, int flags) {
  open_how how{};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC | O_NOFOLLOW);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  const long opened = syscall(SYS_openat2, directory, name.c_str(), &how, sizeof(how));
  if (opened >= 0 || (errno != ENOSYS && errno != EPERM)) return result_of(static_cast<int>(opened));
  return result_of(openat(directory, name.c_str(), flags | O_CLOEXEC | O_NOFOLLOW));
}

class SystemStorage final : public Storage {
 public:
  int open_directory(const std::string& path) override {
    return result_of(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  int open_directory(int directory, const std::string& name) override {
    return open_beneath(directory, name, O_RDONLY | O_DIRECTORY);
  }
  int make_directory(int directory, const std::string& name) override {
    return result_of(mkdirat(directory, name.c_str(), 0700));
  }
  int create_file(int directory, const std::string& name) override {
    constexpr int kFlags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    // past the page cache: training needs the processor's time that the copies take
    const int file = result_of(openat(directory, name.c_str(), kFlags | O_DIRECT, 0600));
    if (file != -EINVAL) return file;
    unlinkat(directory, name.c_str(), 0);  // a file system without O_DIRECT may have made it all the same
    return result_of(openat(directory, name.c_str(), kFlags, 0600));
  }
  int open_file(int directory, const std::string& name) override {
    const int file = open_beneath(directory, name, O_RDONLY | O_NONBLOCK);
    struct stat info {};
    if (file >= 0 && (fstat(file, &info) != 0 || !S_ISREG(info.st_mode))) {
      ::close(file);
      return -EINVAL;
    }
    return file;
  }

  int64_t file_bytes(int file) override {
    struct stat info {};
    return fstat(file, &info) != 0 ? -errno : info.st_size;
  }
  int64_t read(int file, void* to, int64_t bytes, int64_t offset) override {
    const ssize_t count = pread(file, to, static_cast<size_t>(bytes), offset);
    return count < 0 ? -errno : count;
  }
  int64_t write(int file, const void* data, int64_t bytes) override {
    ssize_t count = ::write(file, data, static_cast<size_t>(bytes));
    if (count < 0 && errno == EINVAL) {  // no whole blocks, as at the end of most files: these go the usual way
      const int flags = fcntl(file, F_GETFL);
      if (flags < 0 || (flags & O_DIRECT) == 0 || fcntl(file, F_SETFL, flags & ~O_DIRECT) != 0) return -EINVAL;
      count = ::write(file, data, static_cast<size_t>(bytes));
    }
    return count < 0 ? -errno : count;
  }
  int sync_file(int file) override { return result_of(fdatasync(file)); }
  int sync_directory(int directory) override { return result_of(fsync(directory)); }
  int close(int handle) override { return result_of(::close(handle)); }

  int rename(int directory, const std::string& from, const std::string& to) override {
    return result_of(renameat2(directory, from.c_str(), directory, to.c_str(), RENAME_NOREPLACE));
  }
  int replace(int directory, const std::string& from, const std::string& to) override {
    return result_of(renameat(directory, from.c_str(), directory, to.c_str()));
  }
  int remove_file(int directory, const std::string& name) override {
    return result_of(unlinkat(directory, name.c_str(), 0));
  }
  int remove_directory(int directory, const std::string& name) override {
    return result_of(unlinkat(directory, name.c_str(), AT_REMOVEDIR));
  }

  int list(int directory, std::vector<std::string>& names) override {
    const int copy = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);  // with a position of its own
    DIR* stream = copy < 0 ? nullptr : fdopendir(copy);
    if (stream == nullptr) {
      const int error = errno;
      if (copy >= 0) ::close(copy);
      return -error;
    }
    names.clear();
    errno = 0;
    while (const dirent* entry = readdir(stream)) {
      const std::string_view name = entry->d_name;
      if (name != "." && name != "..") names.emplace_back(name);
    }
    const int error = errno;
    closedir(stream);
    std::sort(names.begin(), names.end());
    return -error;
  }
  int64_t free_bytes(int directory) override {
    struct statvfs info {};
    if (fstatvfs(directory, &info) != 0) return -errno;
    return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
  }
};

}  // namespace

Storage& system_storage() {
  static SystemStorage storage;
  return storage;
}

}  // namespace engine::checkpoint
