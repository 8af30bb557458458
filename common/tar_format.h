/* The header block of tar (POSIX.1-2017, pax, "ustar Interchange Format"), for the two
 * halves of the codec. */
#pragma once

#include "common/tar.h"

struct tar_header {
    char name[100];
    char mode[8];
    char uid[8];
    char gid[8];
    char size[12];
    char mtime[12];
    char checksum[8];
    char flag;
    char link[100];
    char magic[8]; /* and version */
    char uname[32];
    char gname[32];
    char dev_major[8];
    char dev_minor[8];
    char prefix[155];
    char unused[12];
};
_Static_assert(sizeof(struct tar_header) == TAR_BLOCK, "a header is one block");

#define TAR_POSIX_MAGIC "ustar\00000" /* 8 bytes: magic and version */
