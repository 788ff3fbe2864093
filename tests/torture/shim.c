/* A layer between a program and its disk: it writes down what the program asks of one folder, and makes some of it fail.

   Loaded by LD_PRELOAD; told what to do by torture_*(), which the program under test calls through ctypes. Under one
   lock, which all threads and processes that share a log respect, each call is counted, perhaps made to fail (or the
   process killed in its place), carried out, and logged. So the log has one order, and the marks that the program puts
   into it (torture_mark) stand exactly between the calls that came before and those that came after.

   Known limits: writev, pwritev, sendfile, copy_file_range, dup and mmap are not watched; neither SQLite (with
   mmap_size=0, the default) nor the library uses them on the files that count. The -shm is mapped, and rebuilt by
   whoever opens the store first.
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* The order of these is known to shim.py. */
enum { OPEN = 1, WRITE, TRUNCATE, SYNC, UNLINK, RENAME, LINK, ALLOCATE, MARK };

struct record {
    uint32_t kind, pid;
    int32_t fd, error;      /* error: the errno of a call that failed, 0 for one that did not */
    uint64_t offset;        /* of a write; the size, of a truncation; of an open: bit 0 created, 1 emptied, 2 O_DIRECTORY */
    uint32_t name_length, data_length;
};

enum { FDS = 4096, NAME = 256 };
static char folder[4096];
static size_t folder_length;
static int log_fd = -1;
static char names[FDS][NAME]; /* of watched descriptors; "." is the folder itself, "" is not watched */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* One fault at a time. Kinds are a bit mask, 1 << kind. */
static struct { unsigned kinds; long at; int error, ever, half; char suffix[32]; } fault;
static struct { unsigned kinds; long at; } killing;
static long matched, fired, kill_matched;
static long counts[16];
static char struck[NAME]; /* the file that a fault struck last */

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static ssize_t real_write(int fd, const void *data, size_t size) {
    REAL(write);
    return real(fd, data, size);
}

static void lock(void) {
    pthread_mutex_lock(&mutex);
    if (log_fd >= 0) while (flock(log_fd, LOCK_EX) && errno == EINTR) {}
}

static void unlock(void) {
    int kept = errno;
    if (log_fd >= 0) flock(log_fd, LOCK_UN);
    pthread_mutex_unlock(&mutex);
    errno = kept;
}

static void note(int kind, int fd, const char *name, uint64_t offset, const void *data, size_t size, int error) {
    if (log_fd < 0) return;
    size_t name_length = name ? strlen(name) : 0;
    struct record record = {kind, (uint32_t)getpid(), fd, error, offset, (uint32_t)name_length, (uint32_t)size};
    size_t total = sizeof record + name_length + size;
    char *whole = malloc(total);
    memcpy(whole, &record, sizeof record);
    memcpy(whole + sizeof record, name, name_length);
    if (size) memcpy(whole + sizeof record + name_length, data, size);
    if (real_write(log_fd, whole, total) != (ssize_t)total) {
        static const char words[] = "torture: the log could not be written\n";
        real_write(2, words, sizeof words - 1);
        abort();
    }
    free(whole);
}

/* The name within the folder that is watched; "." for the folder; NULL for anything else. */
static const char *name_in_folder(const char *path) {
    if (!folder_length || !path || strncmp(path, folder, folder_length)) return NULL;
    if (!path[folder_length] || !strcmp(path + folder_length, "/")) return ".";
    if (path[folder_length] != '/') return NULL;
    const char *name = path + folder_length + 1;
    return strchr(name, '/') || strlen(name) >= NAME ? NULL : name;
}

static const char *name_of(int fd) {
    return fd >= 0 && fd < FDS && names[fd][0] ? names[fd] : NULL;
}

/* Count a call, and decide what becomes of it: 0, or the errno that it fails with. */
static int strike(int kind, const char *name) {
    counts[kind]++;
    if (killing.kinds & (1u << kind) && ++kill_matched == killing.at) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    if (!(fault.kinds & (1u << kind))) return 0;
    size_t length = strlen(name), suffix = strlen(fault.suffix);
    if (suffix > length || strcmp(name + length - suffix, fault.suffix)) return 0;
    matched++;
    if (matched != fault.at && !(fault.ever && matched > fault.at)) return 0;
    fired++;
    snprintf(struck, sizeof struck, "%s", name);
    return fault.error;
}

/* -- called by the program under test, through ctypes -- */

void torture_watch(const char *path, const char *log) {
    pthread_mutex_lock(&mutex);
    if (log_fd >= 0) close(log_fd);
    log_fd = -1;
    snprintf(folder, sizeof folder, "%s", path);
    folder_length = strlen(folder);
    memset(names, 0, sizeof names);
    memset(counts, 0, sizeof counts);
    if (log && *log) {
        int (*real_open)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
        log_fd = real_open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        if (log_fd < 0) abort();
    }
    pthread_mutex_unlock(&mutex);
}

void torture_mark(const char *text) {
    lock();
    note(MARK, -1, NULL, 0, text, strlen(text), 0);
    unlock();
}

/* Let the at-th call of these kinds, on files whose name ends so, fail; all after it too, if ever. at=0: no fault. */
void torture_fault(unsigned kinds, long at, int error, int ever, int half, const char *suffix) {
    lock();
    fault.kinds = at ? kinds : 0;
    fault.at = at;
    fault.error = error;
    fault.ever = ever;
    fault.half = half;
    snprintf(fault.suffix, sizeof fault.suffix, "%s", suffix);
    if (at) matched = fired = 0; /* what has fired can be asked for after the healing */
    unlock();
}

long torture_fired(void) { return fired; }

const char *torture_struck(void) { return struck; }

long torture_count(int kind) { return counts[kind]; }

void torture_kill(unsigned kinds, long at) {
    lock();
    killing.kinds = kinds;
    killing.at = at;
    kill_matched = 0;
    unlock();
}

/* -- the calls -- */

static int open_watched(int (*real)(const char *, int, ...), const char *path, int flags, mode_t mode) {
    const char *name = name_in_folder(path);
    if (!name) return real(path, flags, mode);
    lock();
    int fd = -1, error = strike(OPEN, name);
    if (error) {
        errno = error;
    } else {
        struct stat there;
        int existed = stat(path, &there) == 0;
        fd = real(path, flags, mode);
        if (fd >= 0) {
            if (fd >= FDS) abort();
            snprintf(names[fd], NAME, "%s", name);
            uint64_t what = (existed ? 0 : 1) | (existed && flags & O_TRUNC ? 2 : 0) | (flags & O_DIRECTORY ? 4 : 0);
            note(OPEN, fd, name, what, NULL, 0, 0);
        }
    }
    unlock();
    return fd;
}

#define OPENING(function) \
    int function(const char *path, int flags, ...) { \
        REAL(function); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        return open_watched((int (*)(const char *, int, ...))real, path, flags, mode); \
    }
OPENING(open)
OPENING(open64)

/* What a program calls that was compiled with _FORTIFY_SOURCE. */
int __open_2(const char *path, int flags) { return open(path, flags); }
int __open64_2(const char *path, int flags) { return open64(path, flags); }

#define OPENING_AT(function, plain) \
    int function(int at, const char *path, int flags, ...) { \
        REAL(function); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        return name_in_folder(path) ? plain(path, flags, mode) : real(at, path, flags, mode); \
    }
OPENING_AT(openat, open)
OPENING_AT(openat64, open64)

int creat(const char *path, mode_t mode) { return open(path, O_WRONLY | O_CREAT | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return open64(path, O_WRONLY | O_CREAT | O_TRUNC, mode); }

int close(int fd) {
    REAL(close);
    if (!name_of(fd)) return real(fd);
    lock();
    names[fd][0] = 0; /* before the number can be given anew */
    int result = real(fd);
    unlock();
    return result;
}

/* A write that fails may have written a part: half of it, rounded down to whole sectors, where the fault says so. */
#define WRITING(offset_of, call_whole, call_half) \
    lock(); \
    ssize_t written = -1; \
    uint64_t offset = offset_of; \
    int error = strike(WRITE, name); \
    if (!error) { \
        written = call_whole; \
        if (written > 0) note(WRITE, fd, NULL, offset, data, (size_t)written, 0); \
    } else { \
        size_t half = fault.half ? size / 2 / 512 * 512 : 0; \
        if (half && call_half == (ssize_t)half) note(WRITE, fd, NULL, offset, data, half, 0); \
        errno = error; \
    } \
    unlock(); \
    return written

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    const char *name = name_of(fd);
    if (!name) return real(fd, data, size);
    int appending = fcntl(fd, F_GETFL) & O_APPEND;
    WRITING((uint64_t)lseek(fd, 0, appending ? SEEK_END : SEEK_CUR), real(fd, data, size), real(fd, data, half));
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t place) {
    REAL(pwrite);
    const char *name = name_of(fd);
    if (!name) return real(fd, data, size, place);
    WRITING((uint64_t)place, real(fd, data, size, place), real(fd, data, half, place));
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t place) {
    REAL(pwrite64);
    const char *name = name_of(fd);
    if (!name) return real(fd, data, size, place);
    WRITING((uint64_t)place, real(fd, data, size, place), real(fd, data, half, place));
}

#define WATCHED(kind, place, call) \
    const char *name = name_of(fd); \
    if (!name) return call; \
    lock(); \
    int error = strike(kind, name), result = -1; \
    if (error) errno = error; \
    else { result = call; if (result) error = errno; } \
    if (!error || kind == SYNC) note(kind, fd, NULL, place, NULL, 0, error); /* a failed sync is an event of its own */ \
    unlock(); \
    return result

int ftruncate(int fd, off_t size) { REAL(ftruncate); WATCHED(TRUNCATE, (uint64_t)size, real(fd, size)); }
int ftruncate64(int fd, off64_t size) { REAL(ftruncate64); WATCHED(TRUNCATE, (uint64_t)size, real(fd, size)); }
int fsync(int fd) { REAL(fsync); WATCHED(SYNC, 0, real(fd)); }
int fdatasync(int fd) { REAL(fdatasync); WATCHED(SYNC, 0, real(fd)); }

#define ALLOCATING(place, call) \
    const char *name = name_of(fd); \
    if (!name) return call; \
    lock(); \
    int error = strike(ALLOCATE, name), result = -1; \
    if (error) errno = error; \
    else if (!(result = call)) note(ALLOCATE, fd, NULL, place, NULL, 0, 0); \
    unlock()

int fallocate(int fd, int mode, off_t offset, off_t size) {
    REAL(fallocate);
    ALLOCATING((uint64_t)(offset + size), real(fd, mode, offset, size));
    return result;
}
int posix_fallocate(int fd, off_t offset, off_t size) {
    REAL(posix_fallocate);
    ALLOCATING((uint64_t)(offset + size), real(fd, offset, size));
    return error ? error : result;
}

int unlink(const char *path) {
    REAL(unlink);
    const char *name = name_in_folder(path);
    if (!name) return real(path);
    lock();
    int error = strike(UNLINK, name), result = -1;
    if (error) errno = error;
    else if (!(result = real(path))) note(UNLINK, -1, name, 0, NULL, 0, 0);
    unlock();
    return result;
}

int unlinkat(int at, const char *path, int flags) {
    REAL(unlinkat);
    return name_in_folder(path) && !flags ? unlink(path) : real(at, path, flags);
}

#define TWO_NAMES(kind, call) \
    const char *name = name_in_folder(from), *other = name_in_folder(to); \
    if (!name || !other) return call; /* in and out of the folder is not watched: nobody does it */ \
    lock(); \
    int error = strike(kind, other), result = -1; \
    if (error) errno = error; \
    else if (!(result = call)) note(kind, -1, name, 0, other, strlen(other), 0); \
    unlock(); \
    return result

int rename(const char *from, const char *to) { REAL(rename); TWO_NAMES(RENAME, real(from, to)); }
int renameat(int a, const char *from, int b, const char *to) { REAL(renameat); TWO_NAMES(RENAME, real(a, from, b, to)); }
int link(const char *from, const char *to) { REAL(link); TWO_NAMES(LINK, real(from, to)); }
int linkat(int a, const char *from, int b, const char *to, int flags) {
    REAL(linkat);
    TWO_NAMES(LINK, real(a, from, b, to, flags));
}
