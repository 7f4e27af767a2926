/* What a disk can do to a program, done at the border of libc: the system tests preload this into a program.
 *
 * The first byte of the file DISK_FAULTS says what happens to files whose path begins with
 * DISK_FAULTS_UNDER, from now on:
 *   l  lie: a sync succeeds and does nothing
 *   r  read-only: what would change anything fails with EROFS, as after a remount
 *   e  error: what would change anything, and every sync, fails with EIO
 * Anything else: nothing. The kernel has no remount under files that are open for writing, and not every machine has a
 * device mapper, so neither can be had from a real disk and taken back again.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static const volatile char *mode;
static const char *under;

#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
    const char *control = getenv("DISK_FAULTS");
    int fd = control ? REAL(int, open, const char *, int, ...)(control, O_RDONLY | O_CLOEXEC) : -1;
    void *page = fd < 0 ? MAP_FAILED : mmap(NULL, 1, PROT_READ, MAP_SHARED, fd, 0);
    under = getenv("DISK_FAULTS_UNDER");
    if (page == MAP_FAILED || !under)
        abort();
    mode = page;
}

static int fault(void) {
    return mode == NULL ? 0 : *mode == 'r' ? EROFS : *mode == 'e' ? EIO : 0;
}

/* Whether a change of this path is to fail; errno says how. */
static int path_fails(const char *path) {
    if (!fault() || strncmp(path, under, strlen(under)) != 0)
        return 0;
    errno = fault();
    return 1;
}

static int file_fails(int fd) {
    char name[64], path[PATH_MAX];
    if (!fault())
        return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return path_fails(path);
}

#define CHANGES_FILE(type, name, parameters, arguments, ...)                                                           \
    type name parameters { return file_fails(fd) ? -1 : REAL(type, name, __VA_ARGS__) arguments; }

CHANGES_FILE(ssize_t, write, (int fd, const void *data, size_t n), (fd, data, n), int, const void *, size_t)
CHANGES_FILE(ssize_t, pwrite, (int fd, const void *data, size_t n, off_t at), (fd, data, n, at), int, const void *,
             size_t, off_t)
CHANGES_FILE(ssize_t, pwrite64, (int fd, const void *data, size_t n, off64_t at), (fd, data, n, at), int, const void *,
             size_t, off64_t)
CHANGES_FILE(ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n), int, const struct iovec *, int)
CHANGES_FILE(ssize_t, pwritev, (int fd, const struct iovec *v, int n, off_t at), (fd, v, n, at), int,
             const struct iovec *, int, off_t)
CHANGES_FILE(ssize_t, pwritev64, (int fd, const struct iovec *v, int n, off64_t at), (fd, v, n, at), int,
             const struct iovec *, int, off64_t)
CHANGES_FILE(int, ftruncate, (int fd, off_t n), (fd, n), int, off_t)
CHANGES_FILE(int, ftruncate64, (int fd, off64_t n), (fd, n), int, off64_t)
CHANGES_FILE(int, fallocate, (int fd, int how, off_t at, off_t n), (fd, how, at, n), int, int, off_t, off_t)
CHANGES_FILE(int, fallocate64, (int fd, int how, off64_t at, off64_t n), (fd, how, at, n), int, int, off64_t, off64_t)

static int sync_is_told(int fd, int *outcome) {
    if (mode != NULL && *mode == 'l')
        return *outcome = 0, 1;
    /* A file system that was remounted read-only has written everything out before. */
    if (fault() != EIO)
        return 0;
    *outcome = -1;
    return file_fails(fd);
}

#define SYNCS(name)                                                                                                    \
    int name(int fd) {                                                                                                 \
        int outcome;                                                                                                   \
        return sync_is_told(fd, &outcome) ? outcome : REAL(int, name, int)(fd);                                        \
    }

SYNCS(fsync)
SYNCS(fdatasync)
SYNCS(syncfs)

#define OPENS(name)                                                                                                    \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t access = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                      \
        va_end(rest);                                                                                                  \
        if ((flags & (O_ACCMODE | O_CREAT | O_TRUNC)) && path_fails(path))                                             \
            return -1;                                                                                                 \
        return REAL(int, name, const char *, int, ...)(path, flags, access);                                           \
    }

OPENS(open)
OPENS(open64)

#define CHANGES_PATH(name, parameters, arguments, ...)                                                                 \
    int name parameters { return path_fails(path) ? -1 : REAL(int, name, __VA_ARGS__) arguments; }

CHANGES_PATH(rename, (const char *path, const char *to), (path, to), const char *, const char *)
CHANGES_PATH(unlink, (const char *path), (path), const char *)
CHANGES_PATH(mkdir, (const char *path, mode_t access), (path, access), const char *, mode_t)
