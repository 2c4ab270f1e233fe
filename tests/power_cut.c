/* Records what a power cut would leave: preloaded into a process, it appends to $POWER_CUT_LOG what every fsync and
 * fdatasync below $POWER_CUT_ROOT has put on the disk. tests/power_cut.py reads the log.
 *
 * A record is "F KEY SIZE\n" and the content of a file, or "D KEY SIZE\n" and the entries of a folder: "KEY NAME\n" for a
 * file, "KEY NAME/\n" for a folder. A key identifies a file for all its names; it has the time of creation, because
 * numbers of inodes are reused. Nothing is synced for real.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static void write_key(FILE *log, int folder, const char *name) {
    struct statx found;
    if (statx(folder, name, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_BTIME, &found) != 0) return;
    fprintf(log, "%llu-%lld-%u", (unsigned long long)found.stx_ino, (long long)found.stx_btime.tv_sec,
            found.stx_btime.tv_nsec);
}

static void write_entries(FILE *record, int descriptor) {
    int again = openat(descriptor, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = again < 0 ? NULL : fdopendir(again);
    if (folder == NULL) abort();
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        write_key(record, descriptor, entry->d_name);
        fprintf(record, " %s%s\n", entry->d_name, entry->d_type == DT_DIR ? "/" : "");
    }
    closedir(folder);
}

static void write_content(FILE *record, int descriptor, off_t size) {
    char block[1 << 16];
    for (off_t at = 0; at < size;) {
        ssize_t length = pread(descriptor, block, sizeof block, at);
        if (length <= 0) return;
        fwrite(block, 1, length, record);
        at += length;
    }
}

static int record(int descriptor) {
    const char *root = getenv("POWER_CUT_ROOT"), *path = getenv("POWER_CUT_LOG");
    char link[64], name[PATH_MAX] = "";
    struct stat found;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    if (root == NULL || path == NULL || readlink(link, name, sizeof name - 1) < 0 || fstat(descriptor, &found) != 0)
        return 0;
    if (strncmp(name, root, strlen(root)) != 0) return 0;
    int source = descriptor;
    /* Not for SQLite, whose descriptors can read: closing a second one would release the locks of the process. */
    if ((fcntl(descriptor, F_GETFL) & O_ACCMODE) == O_WRONLY && (source = open(link, O_RDONLY | O_CLOEXEC)) < 0) abort();
    FILE *log = fopen(path, "ae");
    if (log == NULL) abort();
    flock(fileno(log), LOCK_EX);
    char *content = NULL;
    size_t size = 0;
    FILE *record = open_memstream(&content, &size);
    if (S_ISDIR(found.st_mode)) write_entries(record, descriptor);
    else write_content(record, source, found.st_size);
    fclose(record);
    fprintf(log, "%c ", S_ISDIR(found.st_mode) ? 'D' : 'F');
    write_key(log, descriptor, "");
    fprintf(log, " %zu\n", size);
    fwrite(content, 1, size, log);
    fclose(log);
    free(content);
    if (source != descriptor) close(source);
    return 0;
}

int fsync(int descriptor) { return record(descriptor); }

int fdatasync(int descriptor) { return record(descriptor); }
