#include "retain-mapped-file.h"
#include "retain-error.h"

#if defined(_WIN32)

retain_mapped_file::retain_mapped_file(const std::string & path, size_t) {
    throw retain_error(retain_format("%s: an archive cannot lie in a file on this system; leave the file out", path.c_str()));
}

retain_mapped_file::~retain_mapped_file() = default;

#else

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char MAGIC[] = "retain-local archive\n";

struct open_file {
    int fd;
    ~open_file() {
        if (fd >= 0) {
            close(fd);
        }
    }
};

retain_mapped_file::retain_mapped_file(const std::string & path, size_t n_bytes) : n_base(HEADER + n_bytes) {
    const auto fail = [&](const char * what, int error) {
        throw retain_error(retain_format("%s: %s: %s", path.c_str(), what, strerror(error)));
    };

    // of a link only the link's name would be taken off
    open_file file = { open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600) };
    if (file.fd < 0 && errno == ELOOP) {
        throw retain_error(retain_format("%s: a symbolic link; an archive needs the name of the file itself", path.c_str()));
    }
    if (file.fd < 0) {
        fail("cannot open the archive", errno);
    }

    struct stat info;
    if (fstat(file.fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        throw retain_error(retain_format("%s: not a regular file; an archive needs one", path.c_str()));
    }
    if (info.st_size > 0) {
        char head[sizeof(MAGIC)] = {};
        if (pread(file.fd, head, sizeof(head), 0) != (ssize_t) sizeof(head) || memcmp(head, MAGIC, sizeof(head)) != 0) {
            throw retain_error(retain_format("%s: not an archive, or a damaged one; remove it, or name another file", path.c_str()));
        }
    }

    // Until it has no name the file says what it is, should the process end here.
    if (pwrite(file.fd, MAGIC, sizeof(MAGIC), 0) != (ssize_t) sizeof(MAGIC)) {
        fail("cannot write the archive", errno);
    }
    if (unlink(path.c_str()) != 0) {
        fail("cannot take the name off the archive", errno);
    }

    // all of the room at once: a disk that is full later would end the process
#if defined(__APPLE__)
    const int error = ftruncate(file.fd, n_base) != 0 ? errno : 0;
#else
    const int error = posix_fallocate(file.fd, 0, n_base);
#endif
    if (error != 0) {
        fail("cannot make room for the archive", error);
    }

    base = mmap(nullptr, n_base, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd, 0);
    if (base == MAP_FAILED) {
        fail("cannot map the archive", errno);
    }
}

retain_mapped_file::~retain_mapped_file() {
    munmap(base, n_base);
}

#endif
