/* Root file systems of sandboxes: the host's own system, or an image imported under
 * DIR/images/NAME. Either way a list of entries for the top of the sandbox's tree. */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

#define IMAGE_HOST "host" /* the name that means this machine's /usr */

struct root_entry {
    char *name;   /* below "/", without a slash */
    char *target; /* a symlink's text; NULL: shown read-only as it is */
};
struct root_entries {
    struct root_entry *items;
    size_t count;
};
void root_entries_free(struct root_entries *list);

/* What of `directory` ("/" or an image) a sandbox sees at its top. Of "/" only usr, bin, sbin and
 * lib*; of an image everything but what every sandbox has of its own (proc, sys, dev, tmp, run,
 * workspace, home, .agenttier). */
bool rootfs_entries(const char *directory, bool host, struct root_entries *out, struct error *err);

/* [a-z0-9][a-z0-9._/:-]*, at most 200 characters. */
bool image_name_valid(const char *name);
/* The directory name of an image: '/' becomes '+', ':' becomes '='. `out` has 201 bytes. */
void image_directory(const char *name, char *out);
/* DIR/images/NAME when it was imported, else NULL with 404 that says how to import it. Malloc'ed. */
char *rootfs_find(const char *state_dir, const char *name, struct error *err);

/* Imports a tar (also gzip, xz, zstd, bzip2) or a directory as image NAME: unpacked into a temporary
 * directory and renamed into place, so that a name is either whole or absent. An existing
 * image of that name is replaced; sandboxes that run from it keep the old one. Entries that leave the tree
 * are an error; devices, FIFOs and sockets are left out; set-user-id bits and owners are dropped and
 * everything is readable. The user `sandbox` (1000) is added to its /etc/passwd. */
bool rootfs_import(const char *state_dir, const char *name, const char *path, struct error *err);
