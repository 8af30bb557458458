#include "common/lazy_forward.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

bool lazy_open(struct lazy_library *library, struct error *err) {
    if (atomic_load_explicit(&library->handle, memory_order_acquire)) return true;
    void *handle = dlopen(library->soname, RTLD_LAZY | RTLD_LOCAL);
    if (!handle) {
        error_set(err, 500, ERR_INTERNAL, "a shared library is needed and cannot be opened: %s", dlerror());
        return false;
    }
    /* Two threads at once get the same handle. */
    atomic_store_explicit(&library->handle, handle, memory_order_release);
    return true;
}

void *lazy_find(struct lazy_library *library, void *_Atomic *found, const char *name) {
    cleanup_error struct error err = {0};
    void *function = NULL;
    if (lazy_open(library, &err)) function = dlsym(atomic_load(&library->handle), name);
    if (!function) {
        fprintf(stderr, "%s of %s cannot be called: %s\n", name, library->soname,
                err.status ? err.message : "it is not in there");
        abort();
    }
    atomic_store_explicit(found, function, memory_order_release);
    return function;
}
