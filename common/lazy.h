/* Shared libraries that are opened when something first needs them, not when the program starts. Most Routers
 * never speak to a cluster or an identity provider and seldom pack an archive; libcurl and libarchive alone
 * bring forty libraries, which cost every start 6 ms and every Router 6 MB of memory.
 *
 * The functions are called by their own names, from their own headers: common/lazy_NAME.c defines them as
 * forwards to the library (common/lazy_forward.h). Before its first call a module opens the library and so
 * reports one that is not installed; a forward to a library that was not opened and cannot be ends the
 * program.
 *
 * deploy/image/build reads the names of the libraries from the sources: they are needed in the image. */
#pragma once

#include "common/error.h"

struct lazy_library {
    const char *soname;
    void *_Atomic handle;
};

extern struct lazy_library lazy_curl, lazy_archive, lazy_ssl;

/* Opens it unless it is open. Thread-safe, and cheap when it is. It stays open until the process ends. */
bool lazy_open(struct lazy_library *library, struct error *err);
