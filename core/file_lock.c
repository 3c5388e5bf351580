/* See core/file_lock.h. */
#include "core/file_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "core/status.h"

rb_lock_result rb_file_lock(int fd)
{
    const bool can_write = (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY;
    struct flock whole = {.l_type = can_write ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_SETLK, &whole) == 0) return RB_LOCK_TAKEN;
    return errno == EAGAIN || errno == EACCES ? RB_LOCK_BUSY : RB_LOCK_UNKNOWN;
}

bool rb_is_on_local_disk(int fd)
{
    /* Not in every linux/magic.h: ZFS and bcachefs. */
    enum { ZFS_MAGIC = 0x2fc12fc1 };
    static const unsigned bcachefs = 0xca451a4e;
    static const unsigned local[] = {EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC,
                                     F2FS_SUPER_MAGIC, TMPFS_MAGIC,     OVERLAYFS_SUPER_MAGIC,
                                     RAMFS_MAGIC,      ZFS_MAGIC,       bcachefs};
    struct statfs info;
    if (fstatfs(fd, &info) != 0) return false;
    for (size_t i = 0; i < RB_COUNT(local); i++)
        if ((unsigned)info.f_type == local[i]) return true;
    return false;
}
