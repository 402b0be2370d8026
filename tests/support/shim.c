/* Faults in storage, by LD_PRELOAD: what a process does to its database's files is counted, and
 * made to fail, to wait, or to be the last thing that the process does.
 *
 * OPUSLIVE_FAULTS names a file that holds one struct plan, which the test maps too, so that a
 * running process can be steered; OPUSLIVE_FAULTS_DATABASE is the path of the database. Which
 * file a descriptor belongs to is settled when it is opened: a file that is renamed or removed
 * later goes on being the same one. All numbers in the plan are little-endian and 8 bytes wide;
 * shim.py has their order.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

/* ASIDE are files whose names begin with that of the database and a dot. */
enum { DATABASE = 1, WAL = 2, SHM = 4, FOLDER = 8, ASIDE = 16 };
enum { WRITE = 1, SYNC = 2, TRUNCATE = 4, UNLINK = 8, OPEN = 16, RENAME = 32 };
/* SHORT and TORN, half a write and then the end of the disk or of the process, are for WRITE only. */
enum { NOTHING, FAIL, SHORT, DELAY, KILL, TORN };

#define STEPS 8192
#define DESCRIPTORS 65536

struct plan {
    _Atomic uint64_t action;     /* one of the above */
    _Atomic uint64_t files;      /* mask of those it is for */
    _Atomic uint64_t operations; /* mask of those it is for */
    _Atomic uint64_t first;      /* the number of the first such call it is for, from 1 */
    _Atomic uint64_t last;       /* the number of the last one */
    _Atomic uint64_t error;      /* errno of a call that fails */
    _Atomic uint64_t delay;      /* ms, at most: it ends with the action */
    _Atomic uint64_t calls;      /* such calls so far */
    _Atomic uint64_t faults;     /* of those, how many the action was taken on */
    _Atomic uint64_t steps;      /* all calls to any of the files so far */
    unsigned char trace[STEPS][2]; /* of each its file and its operation */
};

static struct plan *plan;
static const char *database;
static unsigned char kinds[DESCRIPTORS];

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void prepare(void)
{
    const char *path = getenv("OPUSLIVE_FAULTS");
    database = getenv("OPUSLIVE_FAULTS_DATABASE");
    if (path == NULL || database == NULL)
        return;
    int fd = REAL(open)(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        abort();
    void *memory = mmap(NULL, sizeof(struct plan), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        abort();
    REAL(close)(fd);
    plan = memory;
}

static int kind_of(const char *path)
{
    if (plan == NULL || path == NULL)
        return 0;
    size_t length = strlen(database);
    if (strncmp(path, database, length) != 0) {
        size_t folder = strlen(path);
        return strncmp(path, database, folder) == 0 && database[folder] == '/' &&
               strchr(database + folder + 1, '/') == NULL ? FOLDER : 0;
    }
    if (path[length] == '\0')
        return DATABASE;
    if (strcmp(path + length, "-wal") == 0)
        return WAL;
    if (strcmp(path + length, "-shm") == 0)
        return SHM;
    return path[length] == '.' && strcmp(path + length, ".lock") != 0 ? ASIDE : 0;
}

static int kind_at(int fd)
{
    return fd >= 0 && fd < DESCRIPTORS ? kinds[fd] : 0;
}

static int opened(int fd, int kind)
{
    if (fd >= 0 && fd < DESCRIPTORS)
        kinds[fd] = (unsigned char)kind;
    return fd;
}

/* What is to be done instead of, or before, this call. */
static int fault(int kind, int operation)
{
    if (plan == NULL || kind == 0)
        return NOTHING;
    uint64_t step = atomic_fetch_add(&plan->steps, 1);
    if (step < STEPS) {
        plan->trace[step][0] = (unsigned char)kind;
        plan->trace[step][1] = (unsigned char)operation;
    }
    uint64_t action = plan->action;
    if (action == NOTHING || !(plan->files & kind) || !(plan->operations & operation))
        return NOTHING;
    uint64_t call = atomic_fetch_add(&plan->calls, 1) + 1;
    if (call < plan->first || call > plan->last)
        return NOTHING;
    atomic_fetch_add(&plan->faults, 1);
    if (action == KILL)
        kill(getpid(), SIGKILL);
    if (action == DELAY) {
        /* In small pieces, so that it ends when the fault is lifted. */
        struct timespec piece = {0, 5000000};
        for (uint64_t waited = 0; waited < plan->delay && plan->action == DELAY; waited += 5)
            nanosleep(&piece, NULL);
        return NOTHING;
    }
    errno = (int)plan->error;
    return (int)action;
}

#define HAS_MODE(flags) ((flags) & (O_CREAT | O_TMPFILE))

#define OPEN_LIKE(name)                                                                            \
    int name(const char *path, int flags, ...)                                                     \
    {                                                                                              \
        mode_t mode = 0;                                                                           \
        if (HAS_MODE(flags)) {                                                                     \
            va_list more;                                                                          \
            va_start(more, flags);                                                                 \
            mode = va_arg(more, mode_t);                                                           \
            va_end(more);                                                                          \
        }                                                                                          \
        int kind = kind_of(path);                                                                  \
        if (fault(kind, OPEN) == FAIL)                                                             \
            return -1;                                                                             \
        return opened(REAL(name)(path, flags, mode), kind);                                        \
    }

OPEN_LIKE(open)
OPEN_LIKE(open64)

#define OPENAT_LIKE(name)                                                                          \
    int name(int folder, const char *path, int flags, ...)                                         \
    {                                                                                              \
        mode_t mode = 0;                                                                           \
        if (HAS_MODE(flags)) {                                                                     \
            va_list more;                                                                          \
            va_start(more, flags);                                                                 \
            mode = va_arg(more, mode_t);                                                           \
            va_end(more);                                                                          \
        }                                                                                          \
        int kind = kind_of(path);                                                                  \
        if (fault(kind, OPEN) == FAIL)                                                             \
            return -1;                                                                             \
        return opened(REAL(name)(folder, path, flags, mode), kind);                                \
    }

OPENAT_LIKE(openat)
OPENAT_LIKE(openat64)

int close(int fd)
{
    opened(fd, 0);
    return REAL(close)(fd);
}

#define WRITE_LIKE(name, parameters, arguments, half)                                              \
    ssize_t name parameters                                                                        \
    {                                                                                              \
        int action = fault(kind_at(fd), WRITE);                                                    \
        if (action == FAIL)                                                                        \
            return -1;                                                                             \
        if (action == SHORT || action == TORN) {                                                   \
            ssize_t written = size / 2 ? REAL(name) half : 0;                                      \
            if (action == TORN)                                                                    \
                kill(getpid(), SIGKILL);                                                           \
            if (written > 0)                                                                       \
                return written;                                                                    \
            errno = ENOSPC;                                                                        \
            return -1;                                                                             \
        }                                                                                          \
        return REAL(name) arguments;                                                               \
    }

WRITE_LIKE(write, (int fd, const void *data, size_t size), (fd, data, size), (fd, data, size / 2))
WRITE_LIKE(pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at),
           (fd, data, size / 2, at))
WRITE_LIKE(pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at),
           (fd, data, size / 2, at))

int fsync(int fd)
{
    return fault(kind_at(fd), SYNC) == FAIL ? -1 : REAL(fsync)(fd);
}

int fdatasync(int fd)
{
    return fault(kind_at(fd), SYNC) == FAIL ? -1 : REAL(fdatasync)(fd);
}

int ftruncate(int fd, off_t size)
{
    return fault(kind_at(fd), TRUNCATE) == FAIL ? -1 : REAL(ftruncate)(fd, size);
}

int ftruncate64(int fd, off64_t size)
{
    return fault(kind_at(fd), TRUNCATE) == FAIL ? -1 : REAL(ftruncate64)(fd, size);
}

int unlink(const char *path)
{
    return fault(kind_of(path), UNLINK) == FAIL ? -1 : REAL(unlink)(path);
}

/* A second name counts as a renaming. */

int rename(const char *old, const char *new)
{
    return fault(kind_of(old), RENAME) == FAIL ? -1 : REAL(rename)(old, new);
}

int link(const char *old, const char *new)
{
    return fault(kind_of(old), RENAME) == FAIL ? -1 : REAL(link)(old, new);
}

int linkat(int folder, const char *old, int other, const char *new, int flags)
{
    return fault(kind_of(old), RENAME) == FAIL ? -1
                                               : REAL(linkat)(folder, old, other, new, flags);
}
